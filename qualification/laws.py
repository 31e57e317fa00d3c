"""The laws of the models at random parameter sets, with either solver: which hold for all, and which do not.

    python qualification/laws.py --sets 200 --seed 1 --work FOLDER --out qualification/laws.md

Numbers in brackets are the checks of the project's scientific description, section 3. Sets are drawn as its check 10
says: log-SD 0.6 (on the logit scale where the prior is logit-normal) around the typical values, of every parameter that
has a prior. `tests/dynamics/test_laws_random.py` asks the same of a few sets in the ordinary run of the tests. A
run that was stopped goes on from the parts in --work, a model and a solver each, that it had finished.
"""

import argparse
import hashlib
import json
import math
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import expm
from scipy.special import expit, logit

from thymodel.documents.model import Model, load_model, parse_model
from thymodel.documents.regimen import Dose
from thymodel.dynamics import symbolic
from thymodel.dynamics.solving import Accuracy, Solver, plan, prepare, solve_many, stack, trajectories

ROOT = Path(__file__).resolve().parents[1]
SPREAD = 0.6  # log-SD of the sets
STEP = Accuracy(1e-7, 1e-10)  # local error
SOLVED = 1e-5  # of a curve's largest value: some hundred steps add up
NONNEGATIVE = 1e-7  # a state may dip by the local error, of its largest value
FINE = Accuracy(1e-10, 1e-13)
COARSE = Accuracy(1e-2, 1e-5)  # of solvers that are to be found out
BENT = 1e-3  # second differences of a dose response, of its slope at the first dose: RTE are known to about 1e-5
CURVED = 0.1  # an effect of 3e-4 (after growth) of what saturates, ten times: a few hundredths
DIFFERENCED = 1e-4  # truncation of central differences in all log-parameters at once, step 1e-3
DAYS = (0, 3, 3.5, 4, 5, 7, 8, 14, 30, 45, 60, 75, 90, 100, 120, 150, 180, 270, 365, 545, 730, 1100, 1500)
AT = {day: k for k, day in enumerate(DAYS)}
DOSES = (0, 1.5, 4, 9, 300)
PTCY = (Dose(3.0, "ptcy", 50.0), Dose(4.0, "ptcy", 50.0))
ILL = ((0.0, 0.0), (30.0, 1.0), (90.0, 0.0))
POOLS = ("R4", "N4", "M4", "R8", "N8", "M8")
# blood in which nothing happens but what drugs do, and no thymus that could be seeded
QUIET = {key: 0.0 for key in ("pN", "pM4", "pM8", "dN", "mR", "a0", "dM4", "dM8", "eta")}
NO_HOST = {"t_b": 1e6, "k_b": 10.0, "B0": 0.0}  # each where a model has it
# a thymus as in health from the start: endogenous progenitors everywhere, epithelium not injured
HEALTHY = {"t_b": -1e3, "k_b": 10.0, "S0": 1.0, "B0": 1.0}
UNCROWDED = {"Th_ratio": 1e-3}  # thymocytes of a healthy thymus, of those that halve what DP cells come from DN
MORE = {
    "homing_wave": '\n[states.left]\nunit = "Mcell/kg"\ninitial = "0"\nrate = "k_t*Z8"\n',
    "thymus_core": """
[states.seeded]
unit = "cell"
initial = "0"
rate = "entry"
[states.left_dn]
unit = "cell"
initial = "0"
rate = "b*k_D*D4"
[states.left_dp]
unit = "cell"
initial = "0"
rate = "k_P*DP"
[states.exported]
unit = "cell"
initial = "0"
rate = "x4*S4"
""",
    "thymus_competition": """
[inputs.seats_i]
unit = "1"
add = { e_i = "amount" }
[inputs.seats_b]
unit = "1"
add = { e_b = "amount" }
""",
}

Curves = Mapping[str, np.ndarray]  # observable -> (set, day)


def with_states(name: str, more: str = "", fault: Sequence[tuple[str, str]] = ()) -> Model:
    """A shipped model with text added and with an observable `y_<state>` for every state.

    Args:
        fault: text to be replaced, and by what.
    """
    text = load_model(name).text + more
    for right, wrong in fault:
        if right not in text:
            raise ValueError(f"{name} has no '{right}'")
        text = text.replace(right, wrong)
    draft = parse_model(text, name, name)
    observables = [f'[observables.y_{key}]\nunit = "{state.unit}"\nvalue = "{key}"'
                   for key, state in draft.states.items()]
    return parse_model("\n".join([text, *observables]), name, name)


def random_set(model: Model, rng: np.random.Generator, spread: float = SPREAD) -> dict[str, float]:
    """A value for every parameter that has a prior: `spread` on the scale of the prior, around the typical value."""
    moves = zip(rng.normal(0, spread, len(model.parameters)), model.parameters.items(), strict=True)
    return {key: float(expit(logit(item.value) + move)) if item.prior.family == "logitnormal"
            else item.value * math.exp(move) for move, (key, item) in moves if item.prior is not None}


def random_values(model: Model, seed: int, count: int) -> tuple[dict[str, np.ndarray], int]:
    """Sets within the domain of the model, and how many were drawn for them."""
    rng, kept, drawn = np.random.default_rng(seed), [], 0
    while len(kept) < count:
        own = random_set(model, rng)
        drawn += 1
        if in_domain(model, own):
            kept.append(own)
    return {key: np.array([own[key] for own in kept]) for key in kept[0]}, drawn


def in_domain(model: Model, own: Mapping[str, float]) -> bool:
    """Whether endogenous progenitors can seed: with r_e above k_e/(1 - e_ref), 17 times k_e, no positive eta_B keeps a
    healthy thymus at its occupancy, and states of a model that computes eta_B would become negative."""
    return "eta_B" not in model.expressions or own["r_e"] * (1 - model.parameters["e_ref"].value) < own["k_e"]


@dataclass(frozen=True)
class Sets:
    """A model at its sets, solved as often as laws ask: each course once.

    Faults are planted in `model`, in `accuracy`, and in `day`, of the infusion.
    """

    model: Model
    values: Mapping[str, np.ndarray]
    drawn: int
    kind: str
    accuracy: Accuracy = STEP
    day: float = 7.0
    seen: dict = field(default_factory=dict)

    @property
    def count(self) -> int:
        return len(next(iter(self.values.values())))

    @property
    def typical(self) -> dict[str, float]:
        return {key: item.value for key, item in self.model.parameters.items()}

    @property
    def ptcy(self) -> tuple[Dose, ...]:
        return PTCY if "ptcy" in self.model.inputs else ()

    def plain(self, amount: float, changes: Mapping[str, object] | None = None, **covariates) -> Curves:
        """A dose on day 7, after PTCy where the model has it."""
        return self.see((*self.ptcy, Dose(self.day, "progenitors", amount)), changes, covariates)

    def see(self, doses, changes: Mapping[str, object] | None = None, covariates: Mapping | None = None,
            accuracy: Accuracy | None = None) -> Curves:
        known = {key: value for key, value in (changes or {}).items() if key in self.model.parameters}
        asked = repr((doses, sorted((k, np.asarray(v, float).tobytes()) for k, v in known.items()), covariates,
                      accuracy))
        if asked not in self.seen:
            design = _design(self.model, doses, covariates or {})
            self.seen[asked] = solved(self.model, self.typical | dict(self.values) | known, [design] * self.count,
                                      accuracy or self.accuracy, self.kind)
        return self.seen[asked]


def make_sets(name: str, seed: int, count: int, kind: str, fault: Sequence[tuple[str, str]] = ()) -> Sets:
    model = with_states(name, MORE.get(name, ""), fault)
    values, drawn = random_values(model, seed, count)
    return Sets(model, values, drawn, kind)


def _design(model: Model, doses, covariates: Mapping, days: Sequence[float] = DAYS):
    courses = {key: ((model.start, item.value),) for key, item in model.covariates.items()}
    return plan(model, doses, courses | dict(covariates), days)


def solved(model: Model, values, designs, accuracy: Accuracy, kind: str) -> Curves:
    """All observables of one subject a design."""
    if kind == "native":
        found = trajectories(model, values, designs, list(model.observables), accuracy, kind=kind)
    else:
        found = _by_jax(model, values, designs, accuracy)
    return dict(zip(model.observables, np.moveaxis(found, -1, 0), strict=True))


def _by_jax(model: Model, values, designs, accuracy: Accuracy) -> np.ndarray:
    """As `trajectories(kind="jax")`, which would compile each time: one program a model, its design an operand."""
    count = len(designs)
    longest = _design(model, [Dose(7.0, "progenitors", 0.0)] * _MOST_EVENTS, {})
    schedule = jax.tree.map(lambda item: np.asarray(item)[:count], stack([*designs, longest]))
    known = {key: np.broadcast_to(np.asarray(value, float), count) for key, value in values.items()}
    name = (model.digest, count)
    if name not in _programs:
        solver = prepare(model, known, schedule, list(model.observables), accuracy, kind="jax")
        _programs[name] = solver, jax.jit(partial(solve_many, solver))
    solver, program = _programs[name]
    return np.asarray(program(known, solver.tables._replace(schedule=schedule, accuracy=accuracy))[0])


_MOST_EVENTS = 6
_programs: dict[tuple[str, int], tuple[Solver, Callable]] = {}


def apart(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Largest difference of two curves of each set, as a part of the second's largest value."""
    return np.abs(left - right).max(axis=1) / _largest(right)


def above(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """By how much a curve that should nowhere exceed another does, as a part of the other's largest value."""
    return np.maximum(left - right, 0.0).max(axis=1) / _largest(right)


def _largest(curve: np.ndarray) -> np.ndarray:
    largest = np.abs(curve).max(axis=1)
    return np.where(largest > 0, largest, 1.0)


def worst(pieces) -> np.ndarray:
    return np.max(np.stack(list(pieces)), axis=0)


# --- the laws: sets -> violation of each set ------------------------------------------------------------------------


def transit_chain(s: Sets) -> np.ndarray:
    """(1, 19) Chain, wave and what has left the chain are those of the matrix exponential."""
    found, v = s.plain(4.0), s.typical | dict(s.values)
    pieces = []
    for k in range(s.count):
        k_c, k_t, G, lam, D50 = (float(np.broadcast_to(x, s.count)[k]) for x in (
            v["k_c"], v["n"] / v["MTT"], v["G"], v["lam"], v["D50"]))
        A = np.zeros((11, 11))  # P, Z1..Z8, W, left
        A[0, 0] = -k_c
        A[1, 0] = k_c
        for j in range(1, 9):
            A[j, j] = -k_t
            A[j + 1, j] = k_t if j < 8 else G * k_t
        A[9, 9], A[10, 8] = -lam, k_t
        start = np.zeros(11)
        start[0] = 4 / (1 + 4 / D50)
        exact = np.array([expm(A * max(day - 7.0, 0.0)) @ start * (day > 7) for day in DAYS])
        mine = np.stack([found[f"y_{key}"][k] for key in ("Z8", "W", "left")])
        pieces.append(np.max(np.abs(mine - exact[:, [8, 9, 10]].T).max(axis=1) / exact[:, [8, 9, 10]].max(axis=0)))
    return np.array(pieces)


def all_that_seeds_leaves(s: Sets) -> np.ndarray:
    """(19) The flux out of the chain adds up to the effective dose; by day 1500."""
    seeded = 4 / (1 + 4 / s.values["D50"])
    return np.abs(s.plain(4.0)["y_left"][:, -1] / seeded - 1)


def wave_is_not_negative(s: Sets) -> np.ndarray:
    """(19) W >= 0."""
    return above(-s.plain(4.0)["y_W"], s.plain(4.0)["y_W"])


def progenitors_leave_exponentially(s: Sets) -> np.ndarray:
    """(2) P = D exp(-k_c (t - 7))."""
    after = np.maximum(np.array(DAYS) - 7.0, 0.0)
    exact = np.where(np.array(DAYS) > 7, 4 * np.exp(-s.values["k_c"][:, None] * after), 0.0)
    return np.abs(s.plain(4.0)["y_P"] - exact).max(axis=1) / 4


def homing_alone(s: Sets) -> np.ndarray:
    """(3) e = 1 - exp(-eta_patient D/k_c) where nothing leaves the niches and no host competes."""
    found = s.see((Dose(7.0, "progenitors", 4.0),), {"k_e": 0.0, "r_e": 0.0} | NO_HOST)
    eta = s.values["eta"] / s.values["f_th"]  # at 45 years and 70 kg
    return np.abs(found["y_e"][:, -1] / -np.expm1(-eta * 4 / s.values["k_c"]) - 1)


def _transient(s: Sets) -> Curves:
    return s.see((Dose(7.0, "progenitors", 4.0),), {"r_e": 0.5 * s.values["k_e"], **NO_HOST})


def dn_multiplies(s: Sets) -> np.ndarray:
    """(4) What leaves DN is 2^g_D times what was seeded."""
    found = _transient(s)
    return np.abs(found["y_left_dn"][:, -1] / (2**5 * found["y_seeded"][:, -1]) - 1)


def export_is_the_surviving_share(s: Sets) -> np.ndarray:
    """(5) What is exported is chi4 s4 of what leaves DP."""
    found, v = _transient(s), s.values
    share = v["x4"] / (v["x4"] + s.typical["mu4"]) * v["s4"]
    return np.abs(found["y_exported"][:, -1] / (share * found["y_left_dp"][:, -1]) - 1)


def no_dose_no_cells(s: Sets) -> np.ndarray:
    """(6) Without a dose P = e = 0, and a dose of 0 is none."""
    none = s.see(s.ptcy)
    zero, infused = s.plain(0.0), "e_i" if "e_i" in s.model.states else "e"
    empty = [np.abs(found[f"y_{key}"]).max(axis=1) for found in (none, zero) for key in ("P", infused)]
    return worst([*empty, *(apart(zero[key], none[key]) for key in none if key not in ("y_P", f"y_{infused}"))])


def same_until_infused(s: Sets) -> np.ndarray:
    """(6) Arms are the same until the infusion."""
    until = slice(0, AT[7] + 1)
    one, other = s.plain(0.0), s.plain(300.0)
    return worst(np.abs(other[key][:, until] - one[key][:, until]).max(axis=1) / _largest(one[key]) for key in one)


def il7_held(s: Sets) -> dict[str, object]:
    """Nothing that cells consume changes their division, also where sets that divide fast have 1e9 cells per uL."""
    return {"K_I": 1e18}


def il7_held_and_alike(s: Sets) -> dict[str, object]:
    """As `il7_held`, and where two lineages compete neither is better at it."""
    return il7_held(s) | ({"amp_i": 1.0} if "e_i" in s.model.states else {})


def nothing_competes(s: Sets) -> dict[str, object]:
    """As `il7_held`; thymocytes do not crowd each other; infused progenitors are no worse than those they displace."""
    return il7_held(s) | UNCROWDED | ({"amp_i": np.maximum(s.values["amp_i"], 1.0)} if "e_i" in s.model.states else {})


def uncrowded(s: Sets) -> dict[str, object]:
    """Thymocytes do not crowd each other."""
    return dict(UNCROWDED)


def as_drawn(s: Sets) -> dict[str, object]:
    return {}


def monotone(name: str, given: Callable[[Sets], dict[str, object]], s: Sets) -> np.ndarray:
    """(7) More progenitors never mean less, doses 0 to 300."""
    return worst(above(s.plain(less, given(s))[name], s.plain(more, given(s))[name])
                 for less, more in zip(DOSES[:-1], DOSES[1:], strict=True))


def saturates(given: Callable[[Sets], dict[str, object]], s: Sets) -> np.ndarray:
    """(8) No further unit of dose adds more RTE at day 100 than the one before it; what more it adds, of the effect."""
    amounts = (*DOSES, 3000)
    at = np.stack([s.plain(amount, given(s))["rte4"][:, AT[100]] for amount in amounts])
    slopes = np.diff(at, axis=0) / np.diff(amounts)[:, None]
    return np.maximum(np.diff(slopes, axis=0), 0.0).max(axis=0) / np.abs(slopes).max(axis=0)


def small_doses_are_linear(given: Callable[[Sets], dict[str, object]], s: Sets) -> np.ndarray:
    """(9) The effect per unit of dose is the same for one dose and for ten times that.

    Small is what is small after uptake (eta_patient/k_c a dose) and growth: where r_e exceeds k_e a seed grows until
    day 100, and 0.001 may end at the plateau. r_e - k_e is at most 0.1/day here: of a seed that grows 1e19-fold no
    small dose can be told from none.
    """
    v, r_e = s.values, np.minimum(s.values["r_e"], s.values["k_e"] + 0.1)
    growth = np.exp(np.maximum(r_e - v["k_e"], 0.0) * (100 - 7))
    small = 3e-4 / (growth * v["eta"] / v["f_th"] / v["k_c"])
    known = s.typical | dict(v) | {"r_e": r_e} | given(s)
    none, one, ten = (
        solved(s.model, known, [_design(s.model, [Dose(7.0, "progenitors", float(part * d))], {}) for d in small],
               FINE, s.kind)["rte4"][:, AT[100]] for part in (0, 1, 10))
    return np.abs((ten - none) / (10 * (one - none)) - 1)


def not_negative(s: Sets) -> np.ndarray:
    """(10) No state is negative: control, doses 4 and 300, and GVHD with steroid where the model has them."""
    courses = [s.plain(amount) for amount in (0.0, 4.0, 300.0)]
    if "gvhd" in s.model.covariates:
        courses.append(s.plain(4.0, gvhd=ILL, steroid=ILL))
    return worst(above(-found[f"y_{key}"], found[f"y_{key}"]) for found in courses for key in s.model.states)


def within_niches(s: Sets) -> np.ndarray:
    """(11) e_i + e_b <= S while S does not fall."""
    return worst(above(found["y_e_i"] + found["y_e_b"], found["y_S"]) for found in map(s.plain, (0.0, 4.0, 300.0)))


def healthy_thymus_exports_th4_ref(s: Sets) -> np.ndarray:
    """(12) With a healthy epithelium and all progenitors that bone marrow gives, export ends at th4_ref A."""
    export = s.see((), HEALTHY)["thymic_export_cd4"][:, -1]
    return np.abs(export / (s.values["th4_ref"] * s.values["f_th"]) - 1)  # A = f_th at 45 years


def naive_cells_settle(s: Sets) -> np.ndarray:
    """(13) RTE and mature naive cells of a healthy thymus, IL-7 = 1.

    They settle only where p < dN + a, and slowly where hardly so: losses are a hundred times those drawn, and p is
    added to dN, which leaves dN + a.
    """
    v, typical = s.values, s.typical
    quick = {key: 100 * v[key] for key in ("dN", "mR", "a0")}
    division = v["pN"] / (1 + typical["i2N"])
    found = s.see((), HEALTHY | il7_held(s) | quick | {"dN": quick["dN"] + division},
                  accuracy=FINE)  # the error is of these counts, however small beside those of other courses
    emigrants = v["f_b"] / (1000 * typical["V_b"] * 70) * v["th4_ref"] * v["f_th"] / sum(quick.values())
    mature = quick["mR"] * emigrants / (quick["dN"] + quick["a0"])
    return worst(np.abs(found[f"y_{key}"][:, -1] / exact - 1) for key, exact in (("R4", emigrants), ("N4", mature)))


def trec_is_diluted(s: Sets) -> np.ndarray:
    """(14) No pool carries more TREC than if every cell were new (the graft's emigrants carry 0.05)."""
    most, found = np.maximum(s.values["c_R"], 0.05)[:, None], s.plain(4.0)
    return worst(above(found[f"y_U_{pool}"], most * found[f"y_{pool}"]) for pool in POOLS)


def _paces(s: Sets) -> tuple[Curves, Curves]:
    slow, fast = (s.plain(4.0, il7_held(s) | {"pN": s.values["pN"] * factor}) for factor in (1.0, 1.5))
    return slow, fast


def division_makes_no_trec(s: Sets) -> np.ndarray:
    """(14) TREC per uL do not depend on division, IL-7 held."""
    slow, fast = _paces(s)
    return apart(fast["trec_per_ul"], slow["trec_per_ul"])


def division_lowers_content(s: Sets) -> np.ndarray:
    """(14) TREC per naive CD4 fall where cells divide more, IL-7 held."""
    slow, fast = _paces(s)
    return above(fast["trec_per_naive4"][:, AT[14]:], slow["trec_per_naive4"][:, AT[14]:])


def export_falls_with_age(s: Sets) -> np.ndarray:
    """(15) d log(export)/d age = -alpha in a control."""
    old, young = (s.plain(0.0, age=((0.0, age),))["thymic_export_cd4"] for age in (50.0, 40.0))
    begun = young > 1e-2 * young.max(axis=1, keepdims=True)  # before, a relative error is no more than the solver's
    expected = young * np.exp(-10 * s.values["alpha"])[:, None]
    return np.where(begun, np.abs(old - expected) / np.where(begun, expected, 1.0), 0.0).max(axis=1)


def ptcy_kills(s: Sets) -> np.ndarray:
    """(16) Two doses leave exp(-2 kcy) of naive and of memory cells."""
    found = s.see((Dose(0.0, "progenitors", 4.0), *PTCY), QUIET | NO_HOST)
    pieces = []
    for pools, kill in ((("R4", "N4", "U_R8"), "kcy_N"), (("M4", "M8"), "kcy_M")):
        left = np.exp(-2 * s.values[kill])[:, None]
        pieces += [np.abs(found[f"y_{pool}"][:, AT[5]:] / found[f"y_{pool}"][:, :1] / left - 1).max(axis=1)
                   for pool in pools]
    return worst(pieces)


def nested(s: Sets) -> np.ndarray:
    """(17) Without injury and drugs it is thymus_trec, and its cells are those of thymus_core."""
    graft = symbolic.derive(s.model, symbolic.typical_values(s.model) | dict(s.values))
    seeds = {f"{pool}_0": np.broadcast_to(np.asarray(graft[f"{pool}_0"], float), s.count) for pool in POOLS}
    doses, courses = (Dose(7.0, "progenitors", 4.0),), []
    full = s.see(doses, {"S0": 1.0})
    for name in ("thymus_trec", "thymus_core"):
        model = load_model(name)
        values = {key: item.value for key, item in model.parameters.items()}
        values |= {key: value for key, value in (dict(s.values) | seeds).items() if key in values}
        courses.append(solved(model, values, [_design(model, doses, {})] * s.count, STEP, s.kind))
    return worst(apart(full[key], found[key]) for found in courses for key in found)


def lineages_are_neutral(s: Sets) -> np.ndarray:
    """(18) With B = P = 0 and amp_i = 1 only the sum of both occupancies counts."""
    alone = {"B0": 0.0, "amp_i": 1.0}
    split, swapped = (s.see((Dose(0.0, "seats_i", i), Dose(0.0, "seats_b", b)), alone)
                      for i, b in ((0.1, 0.2), (0.3, 0.0)))
    return worst(apart(split[key], swapped[key]) for key in ("thymic_export_cd4", "cd4", "rte4", "tec_function"))


def illness_lowers(name: str, sick: tuple[str, ...], given: Callable[[Sets], dict[str, object]],
                   s: Sets) -> np.ndarray:
    """(20) Illness from day 30 to 90 raises it nowhere."""
    return above(s.plain(4.0, given(s), **dict.fromkeys(sick, ILL))[name], s.plain(4.0, given(s))[name])


def thymus_recovers(s: Sets) -> np.ndarray:
    """(20) What is missing of the epithelium at day 1500 is less than at day 90."""
    ill, well = s.plain(4.0, gvhd=ILL, steroid=ILL)["tec_function"], s.plain(4.0)["tec_function"]
    return np.maximum((well - ill)[:, -1] - (well - ill)[:, AT[90]], 0.0)


def finer_steps_agree(s: Sets) -> np.ndarray:
    """(21) A hundred times the accuracy."""
    fine = s.see((*s.ptcy, Dose(7.0, "progenitors", 4.0)), accuracy=Accuracy(1e-9, 1e-12))
    return worst(apart(s.plain(4.0)[key], fine[key]) for key in fine)


def two_halves(s: Sets) -> np.ndarray:
    """Two half doses at once are one dose."""
    halves = s.see((*s.ptcy, Dose(7.0, "progenitors", 2.0), Dose(7.0, "progenitors", 2.0)))
    return worst(apart(halves[key], s.plain(4.0)[key]) for key in halves)


def heavier(s: Sets) -> np.ndarray:
    """(22) Twice the weight is twice the homing and half the concentration."""
    heavy = s.plain(4.0, BW=((0.0, 140.0),))
    other = s.see((Dose(7.0, "progenitors", 4.0),), {"eta": 2 * s.values["eta"], "f_b": s.values["f_b"] / 2})
    return worst(apart(heavy[key], other[key]) for key in heavy)


def gradients(s: Sets) -> np.ndarray:
    """(23) The slope of log CD4 (days 30, 100, 365) along a random direction of all log-parameters, against a central
    difference."""
    names, step, values = ["cd4"], 1e-3, s.typical | dict(s.values)
    designs = [_design(s.model, [*s.ptcy, Dose(7.0, "progenitors", 4.0)], {}, (30.0, 100.0, 365.0))] * s.count
    way = np.random.default_rng(5).normal(size=(len(s.values), s.count))
    finer = Accuracy(*(part / 10 for part in s.accuracy))
    solver = prepare(s.model, values, stack(designs), names, finer, kind=s.kind)

    def total(logs):
        known = values | dict(zip(s.values, jnp.exp(logs), strict=True))
        return jnp.log(solve_many(solver, known)[0][:, :, 0]).sum()

    at = np.log(np.stack(list(s.values.values())))
    slope = np.sum(np.asarray(jax.jit(jax.grad(total))(jnp.asarray(at))) * way, axis=0)
    up, down = (trajectories(s.model, values | dict(zip(s.values, np.exp(at + sign * step * way), strict=True)),
                             designs, names, FINE, kind="native")[:, :, 0] for sign in (1, -1))
    differences = (np.log(up) - np.log(down)).sum(axis=1) / (2 * step)
    return np.abs(slope - differences) / np.maximum(np.abs(differences), 1.0)


def other_solver(s: Sets) -> np.ndarray:
    """(23) The other solver gives the same curves."""
    designs = [_design(s.model, (*s.ptcy, Dose(7.0, "progenitors", 4.0)), {})] * s.count
    other = solved(s.model, s.typical | dict(s.values), designs, STEP, {"native": "jax", "jax": "native"}[s.kind])
    return worst(apart(s.plain(4.0)[key], other[key]) for key in other)


@dataclass(frozen=True)
class Law:
    """`why` says why a law does not hold for every set, and where it does; empty where it must."""

    number: str
    name: str
    text: str
    models: tuple[str, ...]
    violation: Callable[[Sets], np.ndarray]
    bound: float = SOLVED
    why: str = ""
    slow: bool = False
    solvers: tuple[str, ...] = ("native", "jax")


M1, M2, M4, M5 = (("homing_wave",), ("thymus_core",), ("thymus_full",), ("thymus_competition",))
FAMILY, GRAFT = M2 + M4 + M5, M4 + M5
_IL7 = "more T cells leave less IL-7, and a pool that lives on division then ends lower"
_CROWDED = "where DN cells fill the thymus (large Th_ratio), more of them leave room for fewer DP cells"
_DISPLACED = "infused progenitors with amp_i < 1 take niches from better endogenous ones"
_SPARED = "fewer T cells leave more IL-7 to the rest"
_SHARES = "illness changes which lineage holds the niches; with amp_i far from 1 the better one may gain"
_OVERSHOT = "a thymus that fills again crowds itself with a delay and overshoots a little"
_SICK = (("gvhd",), ("steroid",), ("gvhd", "steroid"))
LAWS = (
    Law("1, 19", "transit chain", "chain, wave and outflow are the matrix exponential's", M1, transit_chain),
    Law("19", "all that seeds leaves", "outflow adds up to the effective dose", M1, all_that_seeds_leaves),
    Law("19", "wave", "W >= 0", M1, wave_is_not_negative, NONNEGATIVE),
    Law("2", "progenitors in blood", "P = D exp(-k_c (t - 7))", FAMILY, progenitors_leave_exponentially),
    Law("3", "homing alone", "e = 1 - exp(-eta_patient D/k_c)", M2, homing_alone),
    Law("4", "DN mass", "exit = 2^g_D x seeding", M2, dn_multiplies),
    Law("5", "export mass", "export = chi4 s4 x what leaves DP", M2, export_is_the_surviving_share),
    Law("6", "no dose", "P = e = 0, all else the control's", FAMILY, no_dose_no_cells),
    Law("6", "before the dose", "arms are the same until the infusion", FAMILY, same_until_infused),
    *(Law("7", f"more progenitors, {name}", "never less until day 1500", models,
          partial(monotone, name, as_drawn), why=why)
      for name in ("rte4", "naive4", "cd4")
      for models, why in ((M2 + M4, f"{_IL7}; {_CROWDED}"), (M5, f"{_IL7}; {_CROWDED}; {_DISPLACED}"))),
    *(Law("7", "more progenitors, trec_per_ul", "never less until day 1500", models,
          partial(monotone, "trec_per_ul", as_drawn), why=why)
      for models, why in ((M4, f"{_IL7}; {_CROWDED}"), (M5, f"{_IL7}; {_CROWDED}; {_DISPLACED}"))),
    *(Law("7", f"more progenitors, {name}, IL-7 held", "never less, uncrowded; amp_i >= 1 in thymus_competition",
          models, partial(monotone, name, nothing_competes))
      for name, models in (("rte4", FAMILY), ("naive4", FAMILY), ("cd4", FAMILY), ("trec_per_ul", GRAFT))),
    *(Law("8", "saturation", "no further unit of dose adds more RTE at d100", models, partial(saturates, as_drawn),
          BENT, why) for models, why in ((M2 + M4, _CROWDED), (M5, f"{_CROWDED}; {_DISPLACED}"))),
    Law("8", "saturation, IL-7 held", "same, uncrowded; amp_i >= 1 in thymus_competition", FAMILY,
        partial(saturates, nothing_competes), BENT),
    Law("9", "small doses", "effect per unit of a small dose is constant", M2,
        partial(small_doses_are_linear, as_drawn), CURVED, _CROWDED, slow=True),
    Law("9", "small doses, IL-7 held", "same, uncrowded", M2, partial(small_doses_are_linear, nothing_competes),
        CURVED, slow=True),
    Law("10", "no negative state", "control, 4, 300, GVHD with steroid", FAMILY, not_negative, NONNEGATIVE),
    Law("11", "niches", "e_i + e_b <= S", M5, within_niches),
    Law("12", "healthy export", "export = th4_ref A", FAMILY, healthy_thymus_exports_th4_ref),
    Law("13", "naive steady state", "R4 and N4 are the closed form's, IL-7 held", FAMILY, naive_cells_settle),
    Law("14", "TREC", "U <= c_R x pool", GRAFT, trec_is_diluted),
    Law("14", "TREC and division", "TREC/uL unchanged, IL-7 held", GRAFT, division_makes_no_trec),
    Law("14", "TREC content", "falls where cells divide more, IL-7 held", GRAFT, division_lowers_content),
    Law("15", "age", "export of a control falls at alpha", FAMILY, export_falls_with_age),
    Law("16", "PTCy", "two doses leave exp(-2 kcy)", GRAFT, ptcy_kills),
    Law("17", "nesting", "M4 without injury = M3, its cells = M2", M4, nested),
    Law("18", "lineages", "only the sum of occupancies counts", M5, lineages_are_neutral),
    *(Law("20", f"{' and '.join(sick)}, {name}", "nowhere above the healthy course", models,
          partial(illness_lowers, name, sick, as_drawn), why=why)
      for name, models, why in (("tec_function", GRAFT, ""), ("thymic_export_cd4", M4, _OVERSHOT),
                                ("thymic_export_cd4", M5, _SHARES), ("cd4", GRAFT, _SPARED), ("rte4", GRAFT, _SPARED))
      for sick in _SICK),
    *(Law("20", f"{' and '.join(sick)}, {name}, IL-7 held", "nowhere above; amp_i = 1 in thymus_competition", models,
          partial(illness_lowers, name, sick, il7_held_and_alike))
      for name, models in (("thymic_export_cd4", M5), ("cd4", GRAFT), ("rte4", GRAFT)) for sick in _SICK),
    *(Law("20", f"{' and '.join(sick)}, thymic_export_cd4, uncrowded", "nowhere above the healthy course", M4,
          partial(illness_lowers, "thymic_export_cd4", sick, uncrowded)) for sick in _SICK),
    Law("20", "recovery", "less epithelium is missing on day 1500 than on day 90", GRAFT, thymus_recovers),
    Law("21", "finer steps", "the same curves at a hundredth of the tolerance", FAMILY, finer_steps_agree, slow=True),
    Law("22", "body weight", "twice BW = twice eta, half f_b", M2, heavier),
    Law("23", "gradients", "slope along a random direction = central difference", FAMILY, gradients, DIFFERENCED,
        slow=True),
    Law("23", "second solver", "native and JAX agree", FAMILY, other_solver, slow=True, solvers=("jax",)),
    Law("", "two halves", "two half doses are one", FAMILY, two_halves),
)


def breaks(law: Law, found: np.ndarray) -> int:
    """For how many sets a law does not hold; NaN holds nowhere."""
    return int(np.sum(~(found <= law.bound)))


# --- negative controls ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Control:
    """A planted fault, and the laws (by the start of their names) that must not hold of it."""

    laws: tuple[str, ...]
    model: str
    fault: tuple[tuple[str, str], ...] = ()
    numerics: Mapping[str, object] = field(default_factory=dict)

    @property
    def text(self) -> str:
        planted = [f"`{right}` -> `{wrong}`" for right, wrong in self.fault]
        return "; ".join([*planted, *(f"{key} = {value}" for key, value in self.numerics.items())])


_TO_SP4 = "s4*k_P*DP - (x4 + mu4)*S4"
_TEC = "(rho_S + rho_X*cellularity/(cellularity + x50))*(1 - S)"
CONTROLS = (
    Control(("transit chain",), *M1, (("G*k_t*Z8 - lam*W", "G*k_t*Z8 - 1.001*lam*W"),)),
    Control(("all that seeds leaves",), *M1, (('inflow   = "k_c*P"', 'inflow   = "0.999*k_c*P"'),)),
    Control(("wave",), *M1, (("G*k_t*Z8 - lam*W", "G*k_t*Z8 - lam*W - 0.001*G*k_c*P"),)),
    Control(("progenitors in blood",), *M2, (('"-k_c*P"', '"-1.001*k_c*P"'),)),
    Control(("homing alone",), *M2, (("eta_patient*P*free", "eta_patient*P*free**1.01"),)),
    Control(("DN mass",), *M2, (('gain     = "b"', 'gain     = "1.001*b"'),)),
    Control(("export mass", "healthy export"), *M2, ((_TO_SP4, "s4*k_P*DP - (x4 + 1.001*mu4)*S4"),)),
    Control(("no dose",), *M2, (("eta_patient*P*free", "0.001*k_e + eta_patient*P*free"),)),
    Control(("before the dose",), *M2, numerics={"day": 6.0}),
    Control(("more progenitors",), *M4, (("dN + mR + convert + k_a", "dN*(1 + e) + mR + convert + k_a"),)),
    Control(("saturation",), *M2, (("amp_i*e ", "amp_i*e**3 "),)),
    Control(("saturation",), *M5, (("j_ref*A*amp_i*e_i", "j_ref*A*amp_i*e_i**3"),)),
    Control(("small doses",), *M2, (("amp_i*e ", "amp_i*e**2 "),)),
    Control(("no negative state",), *M2, ((_TO_SP4, f"{_TO_SP4} - s4*k_P*D1"),)),
    Control(("niches",), *M5, (("max(S - e_i - e_b, 0)", "max(1.1*S - e_i - e_b, 0)"),)),
    Control(("naive steady state",), *M2, (("p_naive - dN - mR", "p_naive - 1.001*dN - mR"),)),
    Control(("TREC",), *M4, (("c_R*kappa*export4 - loss_R*U_R4", "3*c_R*kappa*export4 - (loss_R - 2*p_naive)*U_R4"),)),
    Control(("age",), *M2, (("exp(-alpha*", "exp(-1.01*alpha*"),)),
    Control(("PTCy",), *M4, (('R4   = "exp(-kcy_N', 'R4   = "exp(-1.001*kcy_N'),)),
    Control(("nesting",), *M4, ((_TO_SP4, "1.001*s4*k_P*DP - (x4 + mu4)*S4"),)),
    Control(("lineages",), *M5, (("j_ref*A*amp_i*e_i", "1.001*j_ref*A*amp_i*e_i"),)),
    Control(("gvhd", "steroid"), *M4, ((f"{_TEC} - ", f"{_TEC} + "), ("k_P + k_st_DP*steroid", "k_P"))),
    Control(("gvhd", "steroid"), *M5, ((f"{_TEC} - ", f"{_TEC} + "), ("k_P + k_st_DP*steroid", "k_P"))),
    Control(("recovery",), *M4, ((_TEC, f"{_TEC}*S*(S/S0 - 0.9)"),)),
    Control(("finer steps", "gradients", "second solver"), *M2, numerics={"accuracy": COARSE}),
    Control(("body weight",), *M2, (("(BW/bw_ref)", "(BW/bw_ref)**1.001"),)),
    Control(("two halves",), *M2, (('P = "amount"', 'P = "amount*(1 - 0.001*amount*eta/k_c)"'),)),
)


def found_out(control: Control, seed: int, count: int, kind: str) -> dict[str, int]:
    """For how many of the sets each law that a control is made for finds its fault."""
    faulty = replace(make_sets(control.model, seed, count, kind, control.fault), **control.numerics)
    return {law.name: breaks(law, law.violation(faulty)) for law in LAWS
            if control.model in law.models and not law.why and law.name.startswith(control.laws)}


# --- the report ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """What was seen of a law; `law` is its place in LAWS."""

    law: int
    model: str
    kind: str
    sets: int
    broken: int
    worst: float


def ask(name: str, seed: int, count: int, kind: str) -> list[Row]:
    """Every law of a model, one solver."""
    sets, rows = make_sets(name, seed, count, kind), []
    for place, law in enumerate(LAWS):
        if name in law.models and kind in law.solvers:
            begun = time.perf_counter()
            found = law.violation(sets)
            rows.append(Row(place, name, kind, count, breaks(law, found), float(np.max(found))))
            print(f"{time.perf_counter() - begun:.1f} s {law.name} {rows[-1]}", file=sys.stderr, flush=True)
    return rows


def control(seed: int, count: int) -> list[dict]:
    rows = []
    for item in CONTROLS:
        rows.append({"model": item.model, "text": item.text, "found": found_out(item, seed, count, "native")})
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def part_of(work: Path, name: str) -> Path:
    return work / f"{name}_{_digest()}.json"


def finish(path: Path, make: Callable[[], object]) -> None:
    """What `make` returns, and the seconds of processor time it took, to a file; nothing where the file is there."""
    if path.exists():
        return
    begun = time.process_time()
    found = {"found": make(), "seconds": time.process_time() - begun}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(found))
    part.rename(path)


def _digest() -> str:
    """Of everything that a result depends on."""
    files = [Path(__file__), *sorted((ROOT / "thymodel").rglob("*.py")), *sorted((ROOT / "models").glob("*.toml"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


def _law_lines(rows: Sequence[Row]) -> list[str]:
    lines = ["| check | law | | model | solver | sets | hold | worst violation | allowed |",
             "|---|---|---|---|---|---|---|---|---|"]
    for row in rows:
        law = LAWS[row.law]
        mark = "" if not row.broken else " (not a law: see below)" if law.why else " **BROKEN**"
        lines.append(f"| {law.number} | {law.name} | {law.text} | {row.model} | {row.kind} | {row.sets} | "
                     f"{row.sets - row.broken}{mark} | {row.worst:.1e} | {law.bound:g} |")
    return lines


def _exceptions(rows: Sequence[Row]) -> list[str]:
    """Why laws do not hold for all sets, and what that is known from."""
    by_why: dict[str, list[Row]] = {}
    for row in rows:
        if row.broken and LAWS[row.law].why:
            by_why.setdefault(LAWS[row.law].why, []).append(row)
    lines = []
    for why, broken in by_why.items():
        lines += [f"- **{why[0].upper()}{why[1:]}.** " + "; ".join(
            f"{LAWS[row.law].name}, {row.model}, {row.kind}: {row.broken} of {row.sets}, by up to {row.worst:.1e}"
            for row in broken) + "."]
    return lines


def _control_lines(controls: Sequence[Mapping], count: int) -> list[str]:
    return ["| law | model | planted | found |", "|---|---|---|---|",
            *(f"| {name} | {row['model']} | {row['text']} | {sets} of {count}{'' if sets else ' **NOT FOUND**'} |"
              for row in controls for name, sets in row["found"].items())]


def _processor() -> str:
    table = Path("/proc/cpuinfo")
    lines = table.read_text().splitlines() if table.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=200)
    parser.add_argument("--controls", type=int, default=10, help="sets of each planted fault; 0: none is planted")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--solver", choices=("native", "jax"), action="append", help="ask this one only")
    parser.add_argument("--model", choices=M1 + FAMILY, action="append", help="ask of this one only")
    parser.add_argument("--work", type=Path, required=True, help="folder of finished parts, all of which are reported")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    parts = {(kind, name): part_of(asked.work, f"{kind}_{name}_{asked.sets}_{asked.seed}")
             for kind in ("native", "jax") for name in M1 + FAMILY}
    faults = part_of(asked.work, f"controls_{asked.controls}_{asked.seed}")
    for (kind, name), path in parts.items():
        if kind in (asked.solver or [kind]) and name in (asked.model or [name]):
            finish(path, lambda name=name, kind=kind: [asdict(row) for row in ask(name, asked.seed, asked.sets, kind)])
    finish(faults, lambda: control(asked.seed, asked.controls) if asked.controls else [])
    found = [json.loads(path.read_text()) for path in parts.values() if path.exists()]
    controls = json.loads(faults.read_text())
    seconds = sum(part["seconds"] for part in [*found, controls])
    rows = [Row(**row) for part in found for row in part["found"]]
    missing = [f"{name} ({kind})" for (kind, name), path in parts.items() if not path.exists()]
    outside = random_values(load_model(*M5), asked.seed, asked.sets)[1] - asked.sets
    packages = ("jax", "diffrax", "llvmlite", "numpy", "scipy")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("thymodel", *packages))
    command = ["python", "qualification/laws.py", "--sets", str(asked.sets), "--controls", str(asked.controls),
               "--seed", str(asked.seed), "--work", "FOLDER", "--out", "qualification/laws.md",
               *(part for kind in asked.solver or () for part in ("--solver", kind)),
               *(part for name in asked.model or () for part in ("--model", name))]
    must = [row for row in rows if not LAWS[row.law].why]
    holding = sum(not row.broken for row in must)
    text = f"""# The laws at random parameter sets

Made by `qualification/laws.py`; do not edit.

    {shlex.join(command)}

- Python {platform.python_version()}, {versions}
- {_processor()}, {os.cpu_count()} cores; {datetime.now(UTC):%Y-%m-%d}; {seconds / 60:.0f} minutes of \
processor time
- Not asked in this run: {", ".join(missing) or "nothing"}

**{holding} of {len(must)} rows that must hold for every set do** (a row is a law, a model and a solver). Of
{len(rows) - len(must)} further rows, laws that hold at typical values, {sum(not r.broken for r in rows if
                                                                             LAWS[r.law].why)} hold for every set and \
the others do not; why not is below.

Sets: log-SD {SPREAD:g} around the typical values (logit scale for logit-normal priors), of every parameter that has a
prior. Solvers: the native kernel, and diffrax (all sets in one program). Outside the domain of `thymus_competition` are
sets with r_e above k_e/(1 - e_ref): endogenous progenitors would seed at a negative rate (eta_B < 0), and states become
negative. Such sets are drawn again: {outside} of {asked.sets + outside} here.

A violation is a part of the curve's largest value (of the quantity itself where it is one number), the worst over days
{DAYS[0]} to {DAYS[-1]} and over sets. NaN is never within what is allowed. Allowed is

- {SOLVED:g} for curves: {SOLVED / STEP.rtol:.0f} times the error that a step may make ({STEP.rtol:g}), for some hundred
  steps add up;
- {NONNEGATIVE:g} for states below zero: the error of one step;
- {BENT:g} for the bend of the dose response at day 100: RTE are known to about {SOLVED:g}, and the effect of a dose may
  be a hundredth of them;
- {CURVED:g} for the effect of a small dose per unit: ten times a dose whose effect, after growth, is some 3e-4 of what
  saturates;
- {DIFFERENCED:g} for gradients: central differences in all log-parameters at once, step 1e-3, are no better.

## Laws

{chr(10).join(_law_lines(rows))}

## Not laws of every set

What the description states for typical values, and what does not follow from the equations for others. That it is the
equations and not the code is known from the rows named "IL-7 held" above, which must hold for every one of the same
sets: IL-7 held (K_I = 1e12); where doses are compared, thymocytes that do not crowd each other (Th_ratio = 1e-3) and,
in `thymus_competition`, amp_i >= 1; where illness is, amp_i = 1.

{chr(10).join(_exceptions(rows))}

## Planted faults

Each law is asked of {asked.controls} sets of a model with a fault (native solver).{"" if asked.controls else
                                                                                  " None was planted in this run."}

{chr(10).join(_control_lines(controls['found'], asked.controls))}

## Checks that are not asked of random sets

- 14, the content of Ribeiro and De Boer, and 25, the tables of trajectories, are statements about fixed numbers:
  `tests/dynamics/test_laws_full.py`, `tests/dynamics/test_reference_trajectories.py`.
- 24, simulation-based calibration, is of inference: `qualification/recovery.md`.
"""
    asked.out.write_text(text)


if __name__ == "__main__":
    main()
