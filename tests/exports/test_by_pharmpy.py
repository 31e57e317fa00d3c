"""Pharmpy, which others wrote, reads our control streams and finds our numbers, rows and equations in them.

Its reader takes NM-TRAN code to sympy. What it read is computed here at made-up states and compared with the model.
"""

import math
import re
import warnings

import numpy as np
import pytest
import sympy
from exported import CASES, eta_of, subject_of

from thymodel.dynamics import symbolic
from thymodel.inference.population import subject_values
from thymodel.results.nonmem_export import _Stream, save_control_stream
from thymodel.results.population_export import on_scale

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its plotting packages, as they are imported
    modeling = pytest.importorskip("pharmpy.modeling", reason="Pharmpy is not installed: it comes with thymodel[dev]")

pytestmark = pytest.mark.requirement("REQ-EXC-02")

SAME = 1e-9  # relative: both sides compute the same formula in double precision
MOMENT = 33.0  # after the model's start: between the events of every model here


@pytest.fixture(scope="module")
def read(exports, tmp_path_factory):
    """What Pharmpy made of each control stream and its data file."""
    def one(found):
        path, _ = save_control_stream(found, tmp_path_factory.mktemp("stream"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = modeling.read_model(path)
            return model, model.dataset

    return {name: one(exports[name]) for name in CASES}


def computed(statements, known):
    """`known` with what each statement sets, one after the other; names as texts."""
    for statement in statements:
        expression = sympy.sympify(statement.expression)
        if expression.has(sympy.Function("PHI")) or str(statement.symbol) in ("Y", "F_FLAG", "Z"):
            continue
        value = number(expression, known)
        if not math.isnan(value):  # a choice of which no case holds
            known[str(statement.symbol)] = value
    return known


def number(expression, known):
    """The value of an expression; NaN where none of its choices holds."""
    parts = expression.atoms(sympy.Symbol, sympy.core.function.AppliedUndef)
    return float(expression.subs({part: known[str(part)] for part in parts if str(part) in known}))


@pytest.mark.parametrize("name", CASES)
def test_pharmpy_reads_the_starting_values_that_we_wrote(name, exports, read):
    found, (model, _) = exports[name], read[name]
    stream = _Stream(found)
    thetas, etas = [*stream.thetas, *stream.errors], stream.etas
    table = list(model.parameters)
    estimated = {*found.spec.estimate, *stream.errors, *(n for n in thetas if n.startswith("beta_"))}
    for name, item in zip(thetas, table, strict=False):
        assert item.init == found.values[name]
        assert bool(item.fix) == (name not in estimated)
    pairs = [(a, b) for k, a in enumerate(etas) for b in ([*etas[:k], a] if k < len(found.spec.correlated) else [a])]
    for (a, b), item in zip(pairs, table[len(thetas):-1], strict=True):
        near_zero = 0.0 if a == b else 0.002 * math.sqrt(found.covariance(a, a) * found.covariance(b, b))
        assert item.init == pytest.approx(found.covariance(a, b), rel=1e-12, abs=near_zero)
        assert item.init != 0  # NONMEM would keep it at 0
    assert (table[-1].init, bool(table[-1].fix)) == (1.0, True)


@pytest.mark.parametrize("name", CASES)
def test_pharmpy_reads_every_row_of_our_data(name, exports, read):
    found, (model, rows) = exports[name], read[name]
    assert model.statements.ode_system is not None
    seen = [(number, float(here.DV), int(here.DVID)) for number, (_, group) in
            enumerate(rows[rows.EVID == 0].groupby("ID", sort=False), 1) for here in group.itertuples()]
    ours = [(number, on_scale(found.spec.likelihood[o.observable], o.value), found.observables.index(o.observable) + 1)
            for number, subject in enumerate(found.data.subjects, 1) for o in subject.observations]
    assert sorted(seen) == pytest.approx(np.array(sorted(ours)), rel=1e-12)
    doses = {dose.amount for subject in found.data.subjects for dose in subject.doses}
    assert set(rows[rows.EVID == 1].AMT) == doses  # one into two states has two rows


@pytest.mark.parametrize("name", CASES)
def test_pharmpy_reads_the_equations_of_the_model(name, exports, read):
    found, (read_model, rows) = exports[name], read[name]
    first, model, statements = subject_of(found), found.model, read_model.statements
    subject = found.data.subjects[first - 1]
    etas = eta_of(found)
    own = subject_values(found.spec, found.values, {key: np.array([eta]) for key, eta in etas.items()})
    covariates = {key: float(rows[rows.ID == first][_Stream(found).shared[key]].iloc[0]) for key in found.covariates}
    values = symbolic.typical_values(model) | covariates | {
        key: float(np.ravel(value)[0]) for key, value in own.items() if key not in model.chain_lengths}
    values = symbolic.derive(model, values)

    rng = np.random.default_rng(5)
    state = np.asarray(symbolic.initial(model, values)) + rng.uniform(0.1, 20.0, len(model.states))
    places = {int(re.match(r"A_C(\d+)_", str(amount)).group(1)): amount for amount in statements.ode_system.amounts}
    known = {str(key): value for key, value in read_model.parameters.inits.items()}
    known |= {f"ETA_{k}": etas[key] for k, key in enumerate(_Stream(found).etas, 1)}
    known |= {_Stream(found).shared[key]: value for key, value in covariates.items()}
    known |= dict.fromkeys(("t", "T", "TIME"), MOMENT) | {"A_0FLG": 1.0, "INP": 1.0, "AMT": 3.0, "IDUR": 2.0}
    known |= {"EPS_1": 0.0, "CENS": 0.0}
    known |= {str(sympy.sympify(amount)): float(state[k - 1]) for k, amount in places.items()}
    known = computed(statements.before_odes, known)

    start = [known[f"{sympy.sympify(places[k]).func}(0)"] for k in sorted(places)]
    assert start == pytest.approx(np.asarray(symbolic.initial(model, values)), rel=SAME)
    rates = {str(eq.lhs.args[0]): eq.rhs for eq in map(sympy.sympify, statements.ode_system.eqs)}
    seen = [number(rates[str(sympy.sympify(places[k]))], known) for k in sorted(places)]
    ours = np.asarray(symbolic.rate(model, model.start + MOMENT, state, values))
    assert seen == pytest.approx(ours, rel=SAME, abs=SAME * np.abs(ours).max())
    assert np.abs(ours).max() > 0

    observed = np.asarray(symbolic.observe(model, found.observables, model.start + MOMENT, state, values))
    for k, (observable, value) in enumerate(zip(found.observables, observed, strict=True), 1):
        here = computed(statements.after_odes, known | {"DVID": float(k), "DV": 1.0, "LOWER": 0.0})
        expected = on_scale(found.spec.likelihood[observable], float(value))
        assert here["IPRED"] == pytest.approx(expected, rel=SAME)
    assert subject.observations
