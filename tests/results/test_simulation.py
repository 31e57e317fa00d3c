"""One subject's course from Python: what nobody can be given is refused, all of it at once."""

import pytest

import thymodel


def test_doses_of_nobody_are_refused_with_the_likely_cause():
    doses = [thymodel.Dose(7, "progenitors", 9e6), thymodel.Dose(-3, "progenitors", 9), thymodel.Dose(7, "ptcy", 50)]
    with pytest.raises(thymodel.InputError) as caught:
        thymodel.simulate("thymus_core", [30], doses, covariates={"age": 450})
    told = [str(fault) for fault in caught.value.faults]
    assert len(told) == 4
    assert sum("if 9e+06 was meant in cells/kg, write 9" in text for text in told) == 1
    assert sum("day -3 lies before the model's start" in text for text in told) == 1
    assert sum("has no input 'ptcy'" in text for text in told) == 1
    assert sum("age is 450 year" in text for text in told) == 1
