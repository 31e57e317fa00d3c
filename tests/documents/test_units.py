"""Units of the files: strict balance, exact factors."""

import pytest

from thymodel.documents.units import amount_text, convert_factor, divide, multiply, parse_unit, power, same

pytestmark = pytest.mark.requirement("REQ-MOD-02")


@pytest.mark.parametrize("source, target, factor", [
    ("kcell/uL", "cell/uL", 1000.0), ("Mcell/kg", "cell/kg", 1e6), ("week", "day", 7.0), ("1/uL", "1/mL", 1000.0),
    ("cell/uL", "kcell/mL", 1.0), ("hour", "day", 1 / 24), ("copies/mL", "copy/uL", 1e-3), ("1", "1", 1.0),
    ("AU/mL", "AU/uL", 1e-3), ("mg/kg", "g/kg", 1e-3)])
def test_factors_are_exact(source, target, factor):
    assert convert_factor(source, target) == factor


@pytest.mark.parametrize("source, target", [("cell/uL", "1/uL"), ("copy", "cell"), ("AU", "mg"), ("day", "kg"),
                                            ("cell/uL", "cell")])
def test_other_dimensions_are_not_converted(source, target):
    with pytest.raises(ValueError, match="the dimensions differ"):
        convert_factor(source, target)


@pytest.mark.parametrize("text", [
    "", "   ", "parsec/", "foo", "cell//uL", "3", "0", "degC", "dB", "__import__('os')", "é",
    "9**9**9 day", "m**(9**(9**9))", "m" * 201, "1/0", "day**1000000000", "(" * 90, "2 day", "cell/uL # c", "\x00",
    "nan", "day**day", "[length]"])
def test_what_is_not_a_unit_is_refused(text):
    with pytest.raises(ValueError):
        parse_unit(text)


def test_a_volume_in_other_size_is_another_unit():
    assert not same(parse_unit("mL"), parse_unit("uL"))


def test_one_unit_has_many_spellings():
    assert same(parse_unit("cell/uL/day"), parse_unit("cell/(uL*day)"))
    assert same(parse_unit("1/day"), parse_unit("day**-1"))
    assert same(parse_unit("-"), parse_unit("1"))


def test_a_cell_is_not_a_number():
    assert not same(parse_unit("cell/uL"), parse_unit("1/uL"))


def test_products_cancel():
    assert same(multiply(parse_unit("cell/uL"), parse_unit("uL")), parse_unit("cell"))
    assert same(divide(parse_unit("cell"), parse_unit("cell")), parse_unit("1"))
    assert same(power(parse_unit("mL"), 2), parse_unit("mL**2"))


def test_a_unit_is_shown_as_it_was_written():
    assert str(parse_unit("Mcell/kg")) == "Mcell/kg"


def test_a_unit_that_nobody_wrote_is_shown_in_days_and_microlitres():
    per_day = divide(parse_unit("copy/mL"), parse_unit("day"))
    assert str(per_day) == "0.001 copy uL^-1 day^-1"
    assert str(divide(per_day, parse_unit("cell/uL"))) == "0.001 cell^-1 copy day^-1"
    assert str(multiply(parse_unit("uL"), parse_unit("uL"))) == "uL^2"
    assert str(power(parse_unit("day"), 0.5)) == "day^1/2"
    assert str(divide(parse_unit("day"), parse_unit("day"))) == "1"


def test_units_beyond_a_number_are_refused_and_those_near_it_shown():
    for unit, exponent in (("uL", 100), ("kg/g", 200), ("day", -100), ("g/kg", 200)):
        with pytest.raises(ValueError, match="beyond what a number can hold"):
            power(parse_unit(unit), exponent)
    small = power(parse_unit("uL"), 30)
    for combine, other in ((multiply, small), (divide, power(parse_unit("uL"), -30))):
        with pytest.raises(ValueError, match=r"\[uL\^30\] .* beyond what a number can hold"):
            combine(small, other)
    assert str(power(parse_unit("ug/kg"), 34)) == "1e-306"
    assert str(multiply(power(parse_unit("day"), 60), power(parse_unit("uL"), 30))) == "uL^30 day^60"


def test_an_amount_that_is_a_pure_number_stands_alone():
    assert (amount_text(0.97, "1"), amount_text(9.0, "Mcell/kg")) == ("0.97", "9 Mcell/kg")
