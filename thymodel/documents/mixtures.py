"""Patients of two kinds that nothing measured tells apart: a mixture on parameters, written as a covariate.

The kind is a covariate of 0 and 1, which a data file need not have, and a parameter of patients of the second kind is
that of the first times exp(shift). What a fit does with it is what it does with a covariate of a few values that
patients lack: their likelihood is the sum over both kinds.
Source: McLachlan & Peel 2000, Finite Mixture Models, ch. 1 (as cited by others); $MIXTURE of NONMEM does the same.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from thymodel.documents import priors
from thymodel.documents.model import Covariate, Model, Number, Text
from thymodel.documents.priors import Prior
from thymodel.documents.toml import Table
from thymodel.errors import Fault


class MixtureTable(Table):
    """Patients of a second kind: `shift` has for each parameter in which they differ the prior of the log of its ratio
    to that of the first kind; `probability` is that of the second kind, a number or its prior."""

    shift: dict[str, str]
    probability: str | Number
    source: Text


def with_kinds(model: Model, names: Iterable[str]) -> Model:
    """The model with a covariate for each mixture."""
    kinds = {name: Covariate("1", 0.0, f"patient of the second kind of {name}", "the fit spec") for name in names}
    return replace(model, covariates={**model.covariates, **kinds})


def kind_faults(where: str, name: str, shifts: Mapping[str, Prior]) -> Iterable[Fault]:
    """Two kinds that could swap their places without the posterior noticing."""
    if not shifts:
        yield Fault(where, "the two kinds differ in no parameter", 'say shift = { PARAMETER = "a prior" }')
    elif all(low < 0 < high for low, high in map(priors.support, shifts.values())):
        told = ", ".join(f"{key}: {prior}" for key, prior in shifts.items())
        yield Fault(where, f"the kinds of {name} could swap places: no shift has one sign only ({told})",
                    "say which kind is the second: halfnormal(sd=1) where its parameter is higher, "
                    "uniform(lower=-3, upper=0) where lower")
