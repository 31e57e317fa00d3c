"""Units of the files: parse, combine and compare them, strictly.

A number in an equation is only a number, so two terms may be added only if dimension *and* scale agree:
`mL + uL` is a fault although both are volumes. pint knows the units; this file knows what balance means.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import Any

import pint

_EXTRA_UNITS = (
    "cell = [cell_count]",
    "kcell = 1e3 * cell",
    "Mcell = 1e6 * cell",
    "copy = [copy_count] = _ = copies",
    "AU = [antibody_unit]",
)
# pint computes numbers while it reads, so a tower such as day**9**9**9 must stop before it
_CHARACTERS = re.compile(r"[\w\s%·*/^().-]*\Z")
_BIG_NUMBER = re.compile(r"\d{3}")
_POWER_OF_POWER = re.compile(r"(\*\*|\^)[^*/^A-Za-z]*(\*\*|\^)|//")


@lru_cache(maxsize=1)
def _registry() -> pint.UnitRegistry:
    """The one registry; made on first use because pint takes a third of a second to start."""
    registry: pint.UnitRegistry = pint.UnitRegistry(cache_folder=None)
    for definition in _EXTRA_UNITS:
        registry.define(definition)
    return registry


# base dimension -> the unit that is used for it in words, its size in pint's base units, and the power that it is
_SPOKEN = {"time": ("day", 86_400.0, 1), "length": ("uL", 1e-9, 3), "mass": ("kg", 1.0, 1),
           "cell_count": ("cell", 1.0, 1), "copy_count": ("copy", 1.0, 1)}
_LARGEST_SCALE = 300  # decimal digits: beyond it a power of ten is no float


@dataclass(frozen=True)
class Unit:
    """A unit as a scale and exponents of base dimensions; `text` is how a person wrote it."""

    scale: float = 1.0
    dimension: Mapping[str, Fraction] = field(default_factory=dict)
    text: str = ""

    def __str__(self) -> str:
        if self.text:
            return self.text
        size_of_scale, powers = math.log10(self.scale), []
        for name, power in sorted(self.dimension.items()):
            unit, size, of = _SPOKEN.get(name, (name, 1.0, 1))
            size_of_scale -= float(power / of) * math.log10(size)
            powers.append(unit if power == of else f"{unit}^{power / of}")
        if abs(size_of_scale) > _LARGEST_SCALE:
            return " ".join([f"1e{size_of_scale:+.0f}", *powers])
        scale = 10.0**size_of_scale
        return " ".join(([] if math.isclose(scale, 1.0) else [f"{scale:.6g}"]) + powers) or "1"


DIMENSIONLESS = Unit(text="1")


@lru_cache(maxsize=1024)
def parse_unit(text: str) -> Unit:
    """A unit from its text ("Mcell/kg", "1/day", "1").

    Raises:
        ValueError: the text is not a unit, or is one with an offset such as degC.
    """
    text = text.strip()
    if text in ("", "1", "-"):
        return DIMENSIONLESS if text else _no_unit()
    if len(text) > 200:
        raise ValueError("a unit of more than 200 characters")
    if not _CHARACTERS.match(text) or _BIG_NUMBER.search(text) or _POWER_OF_POWER.search(text):
        raise ValueError(f"'{text[:60]}' is not a unit; write it as cell/uL, 1/day or mL/(kg*day)")
    registry = _registry()
    try:
        unit = registry.parse_units(_without_leading_one(text))
        base: Any = registry.Quantity(1.0, unit).to_base_units()
        zero: Any = registry.Quantity(0.0, unit).to_base_units()
        scale = float(base.magnitude)
        dimension = {name.strip("[]"): Fraction(power).limit_denominator(1000)
                     for name, power in base.dimensionality.items()}
    except Exception as error:  # pint raises many kinds, also plain TypeError and tokenizer errors
        raise ValueError(f"'{text[:60]}' is not a unit ({_first_line(error)})") from None
    if zero.magnitude != 0:
        raise ValueError(f"'{text}' has an offset or is a logarithm; give values in a unit that begins at zero")
    if not 0 < scale < math.inf:
        raise ValueError(f"'{text}' is outside floating point")
    return Unit(scale, dimension, text)


def _no_unit() -> Unit:
    raise ValueError("an empty unit; write \"1\" for a pure number")


def _without_leading_one(text: str) -> str:
    """pint's `parse_units` refuses "1/day"; it takes "day**-1" or "dimensionless/day"."""
    return "dimensionless" + text[1:] if text.startswith("1/") or text.startswith("1 /") else text


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def multiply(a: Unit, b: Unit) -> Unit:
    """Unit of a product.

    Raises:
        ValueError: beyond what a number can hold.
    """
    return _combine(a, b, 1)


def divide(a: Unit, b: Unit) -> Unit:
    """Unit of a quotient.

    Raises:
        ValueError: beyond what a number can hold.
    """
    return _combine(a, b, -1)


def _combine(a: Unit, b: Unit, sign: int) -> Unit:
    dimension = dict(a.dimension)
    for name, power in b.dimension.items():
        dimension[name] = dimension.get(name, Fraction(0)) + sign * power
    scale = a.scale * b.scale if sign > 0 else a.scale / b.scale
    if not 0 < scale < math.inf:
        raise ValueError(f"the unit made of [{a}] and [{b}] is beyond what a number can hold")
    return Unit(scale, {name: power for name, power in dimension.items() if power})


def product_text(a: str, b: str) -> str:
    """Text of a product of two units, as `parse_unit` reads it."""
    parts = [text.strip() for text in (a, b) if text.strip() not in ("1", "-")]
    return "*".join(f"({_without_leading_one(text)})" for text in parts) if len(parts) > 1 else (parts or ["1"])[0]


def amount_text(value: float, unit: str) -> str:
    """A value with its unit, for people: a pure number stands alone."""
    return f"{value:g}" if unit == "1" else f"{value:g} {unit}"


def power(a: Unit, exponent: float) -> Unit:
    """Unit of `a` raised to a number.

    Raises:
        ValueError: beyond what a number can hold.
    """
    fraction = Fraction(exponent).limit_denominator(1000)
    dimension = {name: old * fraction for name, old in a.dimension.items() if fraction}
    try:
        scale = a.scale**exponent
    except OverflowError:
        scale = math.inf
    if not 0 < scale < math.inf:
        raise ValueError(f"{a.text or 'a unit'} to the power {exponent:g} is beyond what a number can hold")
    return Unit(scale, dimension)


def same(a: Unit, b: Unit) -> bool:
    """Whether values in `a` and `b` may be added as they stand: equal dimension, equal scale."""
    return dict(a.dimension) == dict(b.dimension) and math.isclose(a.scale, b.scale, rel_tol=1e-9)


def is_number(a: Unit) -> bool:
    """Whether `a` is a pure number with scale 1."""
    return same(a, DIMENSIONLESS)


def convert_factor(from_text: str, to_text: str) -> float:
    """The factor that turns a value in `from_text` into one in `to_text`.

    Raises:
        ValueError: either is not a unit, or their dimensions differ.
    """
    source, target = parse_unit(from_text), parse_unit(to_text)
    if dict(source.dimension) != dict(target.dimension):
        raise ValueError(f"'{from_text}' cannot be converted to '{to_text}': the dimensions differ")
    factor = source.scale / target.scale
    # powers of ten come out of pint with rounding of the last digit; the data must not carry it
    nearest = 10.0 ** round(math.log10(factor))
    return nearest if math.isclose(factor, nearest, rel_tol=1e-12) else factor
