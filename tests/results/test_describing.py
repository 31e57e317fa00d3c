"""Pages about models: nothing left out, no page older than its model, nothing asked of the outside."""

import importlib.util
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from thymodel.documents import priors
from thymodel.documents.model import load_model, parse_model, shipped_models
from thymodel.errors import InputError
from thymodel.results.describing import describe, description, number, prior_in_words, save_description

pytestmark = pytest.mark.requirement("REQ-MOD-06")

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "models"
MINIMAL = """
title = "One pool"
description = "It <decays> & ends at 5 % of $x_0$."
[parameters]
k = { unit = "1/day", value = 0.1, source = "assumption_of|ours" }
x0 = { unit = "cell/uL", value = 3, prior = "lognormal(median=3, sd=0.5)", source = "counted", verified = true }
[states.x]
unit = "cell/uL"
initial = "x0"
rate = "-k*x"
[observables.x_seen]
unit = "cell/uL"
value = "x"
"""


@pytest.fixture(scope="module", params=sorted(shipped_models()))
def model(request):
    return load_model(request.param)


def test_the_pages_in_the_repository_are_those_of_the_models():
    """If this fails, a model document has changed: run python docs/models/generate.py and commit what it writes."""
    spec = importlib.util.spec_from_file_location("generate", PAGES / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    wanted = generate.pages()
    kept = {path.name: path.read_text(encoding="utf-8") for path in PAGES.iterdir()
            if path.suffix in (".md", ".html", ".svg")}
    assert sorted(kept) == sorted(wanted)
    assert [name for name in wanted if kept[name] != wanted[name]] == []


def test_links_of_the_pages_lead_to_files():
    for path in PAGES.glob("*.md"):
        links = re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8"))
        assert links and [link for link in links if not (PAGES / link).is_file()] == []


@pytest.mark.parametrize("to", ["md", "html", "latex"])
def test_every_number_unit_and_source_is_on_the_page(model, to):
    page = describe(model, to).replace("\n", " ")
    plain = page.replace("\\", "").replace("&#34;", '"').replace("&amp;", "&").replace("&gt;", ">").replace("&lt;", "<")
    plain = plain.replace("$>$", ">").replace("$<$", "<").replace("textasciitilde{}", "~").replace("&#39;", "'")
    for section in (model.parameters, model.constants, model.covariates):
        for key, item in section.items():
            assert f"{key}" in plain and item.unit in plain and item.source in plain, key
            if to != "latex":
                assert number(item.value) in plain
    assert "nan" not in re.findall(r"\w+", plain) and "undefined" not in plain


def test_every_equation_is_on_the_page(model):
    content = description(model)
    chained = sum(len(chain) for chain in _chained(model)) - 2 * len(_chained(model))
    assert len(content.rates) == len(model.states) - chained
    assert sum(len(group.rows) for group in (*content.moving, *content.derived)) == len(model.expressions)
    assert len(content.observables) == len(model.observables)
    assert sum(len(group.rows) for group in content.parameters) == len(model.parameters)
    page = describe(model, "md")
    assert page.count("```math") == (len(content.rates) + len(model.expressions) + len(model.observables)
                                     + len(content.initial) + sum(len(dose.jumps) for dose in content.doses))


def _chained(model):
    from thymodel.dynamics.transfers import chains

    return [chain.members for chain in chains(model)]


def test_every_named_expression_has_a_unit_in_the_documents_words(model):
    content = description(model)
    units = [row.unit for group in (*content.moving, *content.derived) for row in group.rows]
    assert [unit for unit in units if re.search(r"time|length|_count", unit)] == []


def test_the_register_has_every_number_that_nobody_verified(model):
    content = description(model)
    listed = {row.key for group in content.doubtful for row in group.rows}
    assert {key for key, item in model.parameters.items() if not item.verified} <= listed
    assert {key for key, item in model.constants.items() if "assumption" in item.source} <= listed
    assert not {key for key, item in model.constants.items() if item.source == "definition"} & listed


def test_a_shipped_model_states_what_it_takes_for_granted(model):
    assert len(model.assumptions) >= 3
    page = describe(model, "md")
    assert page.count("\n- ") >= len(model.assumptions)


def test_every_constant_of_a_shipped_model_says_what_it_is(model):
    assert [key for key, item in model.constants.items() if not item.label] == []


class Outside(HTMLParser):
    """What a page asks of the outside, and whether its elements are closed."""

    def __init__(self):
        super().__init__()
        self.asked, self.open, self.wrong = [], [], []

    def handle_starttag(self, tag, attrs):
        self.asked += [value for key, value in attrs if key in ("src", "href", "data", "action")
                       and not (value or "").startswith("#")]
        if tag not in ("meta", "br", "col", "mspace"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def test_the_html_stands_alone_and_is_whole(model):
    page = describe(model, "html")
    reader = Outside()
    reader.feed(page)
    assert (reader.asked, reader.wrong, reader.open) == ([], [], [])
    assert not re.search(r"@import|url\((?!#)|<script|https?://(?!www\.w3\.org/2000/svg)", page)
    assert page.count("<math") > len(model.parameters)


def test_the_latex_has_its_environments_and_brackets_closed(model):
    page = describe(model, "latex")
    stack = []
    for kind, name in re.findall(r"\\(begin|end)\{([a-z*]+)\}", page):
        if kind == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert stack == []
    bare = re.sub(r"\\[{}]", "", page)
    assert bare.count("{") == bare.count("}")
    assert page.count(r"\left") - page.count(r"\leftarrow") == page.count(r"\right")
    assert all(ord(letter) < 256 for letter in page)  # plain inputenc knows no more


def test_text_of_a_document_cannot_break_a_page():
    model = parse_model(MINIMAL, "minimal.toml")
    assert "It &lt;decays&gt; &amp; ends" in describe(model, "html")
    assert r"\$x_0\$" in describe(model, "md") and r"assumption_of\|ours" in describe(model, "md")
    assert r"It $<$decays$>$ \& ends at 5 \% of \$x\_0\$." in describe(model, "latex")


def test_a_document_without_inputs_or_expressions_is_described():
    page = describe(parse_model(MINIMAL, "minimal.toml"), "md")
    assert r"\frac{\mathrm{d}x}{\mathrm{d}t} = -k\,x" in page
    assert "No state flows into another" in page
    assert "| $k$ | `k` |" in page


def test_a_page_says_none_of_what_a_model_lacks_and_calls_a_number_a_number():
    page = describe(parse_model(MINIMAL + """
[inputs.share]
unit = "1"
multiply = { x = "amount" }
""", "minimal.toml"), "html")
    assert re.search(r'<h2 id="covariates">Covariates and constants</h2>\s*<p>None.</p>', page)
    assert "At a dose of <i>amount</i>, a pure number:" in page


@pytest.mark.parametrize(("to", "begin"), [("md", "**`share`**. `amount`"), ("html", "<h3><code>share</code></h3>"),
                                           ("latex", r"\texttt{share}. At a dose")])
def test_an_input_without_a_label_is_its_name_alone(to, begin):
    assert begin in describe(parse_model(MINIMAL + """
[inputs.share]
unit = "1"
multiply = { x = "amount" }
""", "minimal.toml"), to)


def test_dashed_arrows_are_explained_where_there_are_any():
    explained = "dashed ones set the pace of a rate"
    pages = {path.stem: path.read_text(encoding="utf-8") for path in PAGES.glob("*.html")}
    dashed = {name for name, page in pages.items() if "stroke-dasharray" in page}
    assert dashed and {name for name, page in pages.items() if explained in page} == dashed
    assert {path.stem for path in PAGES.glob("*.md") if explained in path.read_text(encoding="utf-8")} == dashed


def test_derived_constants_show_their_typical_values():
    content = description(load_model("thymus_core"))
    values = {row.left.base + "".join(row.left.below): row.value for group in content.derived for row in group.rows}
    assert values["jref"] == "2.022\u00a0×\u00a010⁶"  # regression values of the family: 2.0223e6 cells/day
    assert values["kappa"] == "4.082\u00a0×\u00a010⁻⁹" and values["kD"] == "0.2857"


@pytest.mark.parametrize(("text", "words"), [
    ("lognormal(median=0.1, sd=0.2)", "log-normal, median 0.1, SD of the logarithm 0.2; 95%: 0.068 to 0.15"),
    ("normal(mean=0, sd=1)", "normal, mean 0, SD 1; 95%: -2 to 2"),
    ("uniform(lower=0, upper=1)", "uniform, 0 to 1; 95%: 0.025 to 0.97"),
    ("logitnormal(median=0.5, sd=0.7)", "logit-normal, median 0.5, SD of the logit 0.7; 95%: 0.2 to 0.8"),
])
def test_a_prior_is_said_in_words(text, words):
    assert prior_in_words(priors.parse_prior(text)) == words


def test_a_parameter_without_prior_is_fixed():
    assert prior_in_words(None) == "fixed"


def test_markdown_is_saved_with_the_drawing_that_it_shows(tmp_path):
    model = load_model("homing_wave")
    files = save_description(model, tmp_path / "wave.md", "md")
    assert [file.name for file in files] == ["wave.md", "wave.svg"]
    assert "](wave.svg)" in files[0].read_text(encoding="utf-8")
    assert files[1].read_text(encoding="utf-8").startswith("<svg")


def test_a_page_that_cannot_be_written_is_a_fault(tmp_path):
    model = load_model("homing_wave")
    for path in (tmp_path / "absent" / "wave.html", tmp_path / "wave.svg"):
        with pytest.raises(InputError, match=re.escape(str(path))):
            save_description(model, path, "md")
