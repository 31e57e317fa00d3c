"""A document as a LaTeX article, with its figures as files in a folder beside it."""

from pathlib import Path

import jinja2

from thymodel.results.describing import tex
from thymodel.results.document import Banner, Document, Grid, Paragraph, Picture, numeric, wide, widths
from thymodel.results.frames import TEMPLATES
from thymodel.results.raster import png_of

_LONGEST_WORD = 12  # letters after which a word in a table may break


def latex_files(document: Document, path: Path) -> dict[Path, bytes]:
    """The article, and its figures in `NAME_figures` beside it; it compiles with pdflatex."""
    folder = path.with_name(f"{path.stem}_figures")
    pictures = [block for block in document.blocks() if isinstance(block, Picture)]
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined,
                                     autoescape=False, trim_blocks=True, lstrip_blocks=True,
                                     keep_trailing_newline=True)
    environment.filters |= {"tex": tex, "cell": _cell, "code": _code}
    environment.tests |= {kind.__name__.lower(): _is(kind) for kind in (Banner, Grid, Paragraph, Picture)}
    places = {block.key: f"figure_{block.number:02d}.png" for block in pictures}
    text = environment.get_template("report.tex.j2").render(
        document=document, columns=_columns, wide=wide, folder=folder.name, places=places, fitted=_fitted)
    return {folder / places[block.key]: png_of(block) for block in pictures} | {path: text.encode()}


def _is(kind: type):
    return lambda block: isinstance(block, kind)


def _columns(block: Grid) -> str:
    """The columns of a longtable, as wide as what they hold."""
    right = numeric(block.table)
    gaps = f"\\dimexpr\\linewidth-{2 * (len(right) - 1)}\\tabcolsep\\relax"
    sides = [r"\raggedleft" if of_numbers else r"\raggedright" for of_numbers in right]
    columns = [f">{{{side}\\arraybackslash}}p{{{share:.4f}{gaps}}}"
               for side, share in zip(sides, widths(block.table), strict=True)]
    return f"@{{}}{''.join(columns)}@{{}}"


def _cell(text: str) -> str:
    """Text of a table, whose long words may break: TeX breaks no name with digits or underscores."""
    return " ".join(_breakable(word) for word in str(text).split(" "))


def _breakable(word: str) -> str:
    if len(word) <= _LONGEST_WORD:
        return tex(word)
    return r"\allowbreak{}".join(tex(word[k:k + 6]) for k in range(0, len(word), 6))


def _code(text: str) -> str:
    """Lines of a document as they are, which may break where they are too long."""
    lines = []
    for line in text.split("\n"):
        body = line.lstrip(" ")
        words = [_breakable(word) for word in body.split(" ")]
        lines.append(r"\mbox{}" + "~" * (len(line) - len(body)) + " ".join(words) + r"\par")
    return "\n".join(lines)


def _fitted(picture: Picture) -> str:
    """A figure as wide as the page, or as high where it is tall."""
    return "width=\\linewidth" if picture.height / picture.width < 1.25 else "height=0.82\\textheight"
