"""A prior as text and as a value: `lognormal(median=0.1, sd=0.2)`.

Every prior is a map from a standard normal z to the parameter (its quantile function after the normal CDF), so the
sampler sees one kind of prior only. `inference.population` holds the maps; here is what the text means.
"""

import ast
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy.special
import scipy.stats

_KEYS = {
    "lognormal": ("median", "sd"),
    "logitnormal": ("median", "sd"),
    "normal": ("mean", "sd"),
    "truncnormal": ("mean", "sd", "lower", "upper"),
    "halfnormal": ("sd",),
    "halfcauchy": ("scale",),
    "exponential": ("mean",),
    "uniform": ("lower", "upper"),
    "lkj": ("shape",),
}
FARTHEST_BOUND = 30  # sd; probabilities of a normal beyond 37 sd are zero in floating point
_POSITIVE = frozenset({"sd", "scale", "shape"})
# the unit of a key follows the parameter's unit, except for spreads on the log or logit scale and shapes
KEYS_IN_UNIT_OF_PARAMETER = {"lognormal": ("median",), "logitnormal": ("median",), "lkj": ()}


@dataclass(frozen=True)
class Prior:
    """A family and its named numbers. `sd` of lognormal and logitnormal is on the log and logit scale."""

    family: str
    numbers: Mapping[str, float]

    def __str__(self) -> str:
        return f"{self.family}({', '.join(f'{key}={value:g}' for key, value in self.numbers.items())})"


def parse_prior(text: str) -> Prior:
    """A prior from its text.

    Raises:
        ValueError: unknown family or key, a key that is missing, or a number outside what the family allows.
    """
    prior = _parse(text)
    if prior.family == "lkj":
        raise ValueError(f"{prior} is a prior of correlations, not of one number")
    return prior


def parse_correlation_prior(text: str) -> float:
    """The shape of `lkj(shape=2)`.

    Raises:
        ValueError: another family, or a shape that is not above 0.
    """
    prior = _parse(text)
    if prior.family != "lkj":
        raise ValueError(f"{prior} is not a prior of correlations; write lkj(shape=2)")
    return prior.numbers["shape"]


def _parse(text: str) -> Prior:
    family, numbers = _read(text)
    if family not in _KEYS:
        raise ValueError(f"unknown prior family '{family}'; known: {', '.join(sorted(_KEYS))}")
    wanted, found = _KEYS[family], set(numbers)
    if found != set(wanted):
        raise ValueError(f"{family}() takes {', '.join(wanted)}; found {', '.join(sorted(found)) or 'nothing'}")
    prior = Prior(family, {key: numbers[key] for key in wanted})
    _check_numbers(prior)
    return prior


def _read(text: str) -> tuple[str, dict[str, float]]:
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        call = None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
        raise ValueError(f"'{text[:60]}' is not a prior; write it as lognormal(median=0.1, sd=0.2)")
    keys = [str(word.arg) for word in call.keywords]
    if len(set(keys)) < len(keys):
        raise ValueError(f"'{text[:60]}' gives a number twice")
    return call.func.id, {key: _literal(word.value) for key, word in zip(keys, call.keywords, strict=True)}


def _literal(node: ast.AST) -> float:
    sign = 1.0
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        sign, node = -1.0 if isinstance(node.op, ast.USub) else 1.0, node.operand
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        try:
            return sign * float(node.value)
        except OverflowError:
            raise ValueError("a number too large for floating point") from None
    if isinstance(node, ast.Name) and node.id == "inf":
        return sign * math.inf
    raise ValueError(f"'{ast.unparse(node)[:40]}' is not a number")


def _check_numbers(prior: Prior) -> None:
    numbers, family = prior.numbers, prior.family
    for key, value in numbers.items():
        if key in _POSITIVE and not 0 < value < math.inf:
            raise ValueError(f"{prior}: {key} must be above 0")
        if math.isinf(value) and not (family == "truncnormal" and key in ("lower", "upper")):
            raise ValueError(f"{prior}: {key} must be finite")
    if family in ("lognormal", "exponential") and not next(iter(numbers.values())) > 0:
        raise ValueError(f"{prior}: its {next(iter(numbers))} must be above 0, the support of the prior")
    if family == "logitnormal" and not 0 < numbers["median"] < 1:
        raise ValueError(f"{prior}: the median must lie between 0 and 1, the support of the prior")
    if "lower" in numbers and not numbers["lower"] < numbers["upper"]:
        raise ValueError(f"{prior}: lower must be below upper")
    if family == "truncnormal" and max(numbers["lower"] - numbers["mean"], numbers["mean"] - numbers["upper"]) > (
            FARTHEST_BOUND * numbers["sd"]):
        raise ValueError(f"{prior}: the mean lies more than {FARTHEST_BOUND} sd outside the bounds")


def support(prior: Prior) -> tuple[float, float]:
    """The open interval where the prior has density."""
    if prior.family == "logitnormal":
        return 0.0, 1.0
    if "lower" in prior.numbers:
        return prior.numbers["lower"], prior.numbers["upper"]
    return (-math.inf if prior.family == "normal" else 0.0), math.inf


def in_scipy(prior: Prior):
    """The same prior as a frozen scipy distribution (logitnormal and lkj have none): tables, plots, tests."""
    n = prior.numbers
    match prior.family:
        case "lognormal":
            return scipy.stats.lognorm(s=n["sd"], scale=n["median"])
        case "normal":
            return scipy.stats.norm(n["mean"], n["sd"])
        case "truncnormal":
            a, b = (n["lower"] - n["mean"]) / n["sd"], (n["upper"] - n["mean"]) / n["sd"]
            return scipy.stats.truncnorm(a, b, loc=n["mean"], scale=n["sd"])
        case "halfnormal":
            return scipy.stats.halfnorm(scale=n["sd"])
        case "halfcauchy":
            return scipy.stats.halfcauchy(scale=n["scale"])
        case "exponential":
            return scipy.stats.expon(scale=n["mean"])
        case "uniform":
            return scipy.stats.uniform(n["lower"], n["upper"] - n["lower"])
    raise ValueError(f"scipy has no {prior.family} distribution")


# --- other priors in place of one ----------------------------------------------------------------------------

_PLACED = {"lognormal": "median", "logitnormal": "median", "normal": "mean", "truncnormal": "mean"}
_WIDTH = {"halfcauchy": "scale", "exponential": "mean"}  # of the others it is the sd


def log_kernel(prior: Prior, value: np.ndarray) -> np.ndarray:
    """Log density less a constant, on the scale that the prior is written on: log of a lognormal, logit of a
    logitnormal. There a power of the density keeps its median and changes its width."""
    n = prior.numbers
    match prior.family:
        case "lognormal":
            return -0.5 * (np.log(value / n["median"]) / n["sd"]) ** 2
        case "logitnormal":
            return -0.5 * ((scipy.special.logit(value) - scipy.special.logit(n["median"])) / n["sd"]) ** 2
        case "normal" | "truncnormal":
            return -0.5 * ((value - n["mean"]) / n["sd"]) ** 2
        case "halfnormal":
            return -0.5 * (value / n["sd"]) ** 2
        case "halfcauchy":
            return -np.log1p((value / n["scale"]) ** 2)
        case "exponential":
            return -value / n["mean"]
        case "uniform":
            return np.zeros_like(value)
    raise ValueError(f"{prior} is not the prior of one number")


def shifted(prior: Prior, distance: float) -> Prior:
    """The prior moved by so many of its standard deviations, on the scale that it is written on.

    Raises:
        ValueError: it has no place of its own (a half-normal begins at zero, a uniform ends at its bounds).
    """
    if prior.family not in _PLACED:
        raise ValueError(f"{prior} cannot be shifted: it begins at zero or ends at its bounds")
    key, step = _PLACED[prior.family], distance * prior.numbers["sd"]
    place = prior.numbers[key]
    if prior.family == "lognormal":
        moved = place * math.exp(step)
    elif prior.family == "logitnormal":
        moved = float(scipy.special.expit(scipy.special.logit(place) + step))
    else:
        moved = place + step
    return Prior(prior.family, {**prior.numbers, key: moved})


def rescaled(prior: Prior, factor: float) -> Prior:
    """The prior made wider by a factor, about the place where it is.

    Raises:
        ValueError: a uniform, whose bounds would exclude or add values.
    """
    key = _WIDTH.get(prior.family, "sd")
    if key not in prior.numbers:
        raise ValueError(f"{prior} cannot be rescaled: other bounds exclude or add values")
    return Prior(prior.family, {**prior.numbers, key: prior.numbers[key] * factor})
