"""A spec or a record as an R function for nlmixr2 and rxode2, with its data file, for an independent rerun.

The function has an ini and a model block as these packages read them; what they cannot say is refused by name (see
`population_export`). Values below a limit of quantification are censored by nlmixr2 itself, from CENS and LIMIT.
"""

import math
from pathlib import Path

from thymodel.documents.code_text import Code, Names, number_text
from thymodel.documents.measurement import ON_LOG_SCALE
from thymodel.documents.priors import support
from thymodel.errors import Fault, InputError
from thymodel.inference.population import error_name
from thymodel.results.nonmem_export import save_texts
from thymodel.results.population_export import Effect, PopulationModel, data_text, error_scale, prior_text

_SMALLEST = "1e-60"


def save_rxode_model(found: PopulationModel, folder: Path) -> list[Path]:
    """The R function and, where the data are at hand, its data file.

    Raises:
        InputError: the folder holds such files already, or inputs that rxode2 cannot tell apart.
    """
    files = {f"{found.name}.R": rxode_model(found)}
    if found.data is not None:
        files[f"{found.name}.rxode2.csv"] = data_text(found, "r", _Function(found).known)
    return save_texts(files, folder)


def rxode_model(found: PopulationModel) -> str:
    """The R code as text.

    Raises:
        InputError: two inputs with different bioavailabilities in one state.
    """
    writer = _Function(found)
    return "\n".join([*writer.head(), *writer.ini(), *writer.model_block(), *writer.tail()]) + "\n"


class _Function:
    """Names that the blocks of one R function share."""

    def __init__(self, found: PopulationModel):
        self.found, self.spec, self.model = found, found.spec, found.model
        self.names = Names("r")
        everything = [*found.covariates, *self.model.states, *found.constants, *found.parameters, *found.static,
                      *(name for group in found.used for name in group)]
        self.known = {name: self.names.new(name) for name in dict.fromkeys(everything)}
        self.function = self.names.new(f"{found.name}_model")
        effects, own = self.spec.between_subject.values(), set(self.spec.estimate)
        logged = {name for item in effects if item.scale == "log" for name in item.parameters}
        self.on_log = {name for name in own & logged if found.values[name] > 0 and not self._otherwise(name)}
        self.thetas = {name: self.names.new(f"l_{name}" if name in self.on_log else f"tv_{name}")
                       for name in found.parameters if name in own or name.startswith("beta_")}
        self.etas = {name: self.names.new(f"eta_{name}") for name in self.spec.between_subject}
        self.sigmas = {error_name(name, key): self.names.new(error_name(name, key))
                       for name, error in self.spec.likelihood.items() for key in error.parameters}
        self.predictions = {name: self.names.new(f"pred_{name}") for name in found.observables}

    def _otherwise(self, name: str) -> bool:
        """Whether an effect acts on it on another scale than the log."""
        return any(item.scale != "log" and name in item.parameters for item in self.spec.between_subject.values())

    # --- blocks ----------------------------------------------------------------------------------------------

    def head(self) -> list[str]:
        found, model = self.found, self.model
        note = ("SIMULATED data. " if self.spec.simulated else "") + " ".join(self.spec.title.split())
        scales = [f"# {name}: {error_scale(self.spec.likelihood[name])}" for name in found.observables]
        return [f"# {note}", "# Written by thymodel. This text was never run by its writer: R is not part of thymodel.",
                f"# {found.origin}",
                f"# model {model.name}, sha256 {model.digest}; spec sha256 {self.spec.digest}",
                f"# TIME counts {model.time}s from the model's start, {model.start:g}.",
                "# ID numbers subjects in the order of the data.",
                *scales,
                "# What was measured at the time of a dose stands a little before it: rxode2 gives doses first.",
                f"{self.function} <- function() {{"]

    def ini(self) -> list[str]:
        lines = ["  ini({"]
        for name, own in self.thetas.items():
            value = number_text(self.found.values[name], "r")
            text = f"log({value})" if name in self.on_log else self._bounded(name, value)
            lines.append(f"    {own} <- {text}  # {name}{self.found.about(name)}")
        for name, own in self.sigmas.items():
            value = number_text(self.found.values[name], "r")
            lines.append(f"    {own} <- c(0, {value})  # {name}{self.found.about(name)}")
        for observable, error in self.spec.likelihood.items():
            if error.family == "student_t":
                lines.append(f"    {self._df(observable)} <- fix({number_text(error.df, 'r')})  # degrees of freedom")
        block = list(self.spec.correlated)
        if block:
            triangle = [self._covariance(a, b) for k, a in enumerate(block) for b in block[:k + 1]]
            lines.append(f"    {' + '.join(self.etas[name] for name in block)} ~ c({', '.join(triangle)})")
        for name, own in self.etas.items():
            if name not in block:
                stated = prior_text(self.spec, f"omega_{name}") == "stated"
                value = self._covariance(name, name)
                text = f"fix({value})" if stated else value
                lines.append(f"    {own} ~ {text}  # {name}{self.found.about(f'omega_{name}')}")
        return [*lines, "  })"]

    def _bounded(self, name: str, value: str) -> str:
        low, high = support(self.spec.estimate[name].prior) if name in self.spec.estimate else (-math.inf, math.inf)
        if math.isinf(low) and math.isinf(high):
            return value
        bounds = ["-Inf" if math.isinf(low) else number_text(low, "r"), value,
                  *([number_text(high, "r")] if math.isfinite(high) else [])]
        return f"c({', '.join(bounds)})"

    def _df(self, observable: str) -> str:
        return f"df_{self.predictions[observable]}"

    def _covariance(self, a: str, b: str) -> str:
        return number_text(self.found.covariance(a, b), "r")

    def model_block(self) -> list[str]:
        found, model = self.found, self.model
        start = model.start
        moment = f"(t + {number_text(start, 'r')})".replace("+ -", "- ") if start else "t"
        code = Code("r", self.names, {**self.known, "t": moment, "amount": "DAMT", "pi": number_text(math.pi, "r")})
        for name in found.constants:
            code.put(self.known[name], number_text(model.constants[name].value, "r"), model.constants[name].unit)
        for name in found.parameters:
            code.put(self.known[name], self._individual(name))
        for name in found.static:
            code.assign(self.known[name], model.expressions[name])
        for name, state in model.states.items():
            code.assign(f"{self.known[name]}(0)", state.initial)
            self._bioavailability(code, name)
        for name in model.expressions:
            if name in self.known and name not in found.static:
                code.assign(self.known[name], model.expressions[name])
        for name, state in model.states.items():
            code.assign(f"d/dt({self.known[name]})", state.rate)
        for name in found.observables:
            code.put(self.predictions[name], self._prediction(name, code.text(model.observables[name].value)))
        for name in found.observables:
            code.lines.append(f"{self.predictions[name]} ~ {self._error(name)} | {name}")
        return ["  model({", *[f"    {line}" for line in code.lines], "  })", "}"]

    def _individual(self, name: str) -> str:
        if name not in self.thetas:
            text = number_text(self.found.values[name], "r")
        else:
            text = self.thetas[name]
        shifts = [(item.scale, self.etas[key]) for key, item in self.spec.between_subject.items()
                  if name in item.parameters]
        if name in self.on_log:
            return f"exp({' + '.join([text, *(eta for _, eta in shifts)])})"
        for scale, eta in shifts:
            if scale == "log":
                text = f"{text} * exp({eta})"
            elif scale == "logit":
                text = f"1.0 / (1.0 + (1.0 - {text}) / ({text}) * exp(-{eta}))"
            else:
                text = f"({text} + {eta})"
        return text

    def _bioavailability(self, code: Code, state: str) -> None:
        here = [effect for effect in self.found.effects if effect.state == state]
        if len({effect.factor for effect in here}) > 1:
            raise InputError([Fault(f"{self.model.name}: {', '.join(map(self._input, here))}",
                                    f"different bioavailabilities in state {state}, where rxode2 has one",
                                    "thymodel export nonmem tells inputs apart")])
        if here and here[0].factor != 1:
            code.assign(f"f({self.known[state]})", here[0].factor)
        if here and self.found.has_infusions:
            code.put(f"dur({self.known[state]})", "IDUR")

    def _input(self, effect: Effect) -> str:
        return f"inputs.{list(self.model.inputs)[effect.input - 1]}"

    def _prediction(self, name: str, text: str) -> str:
        error = self.spec.likelihood[name]
        if error.family not in ON_LOG_SCALE:
            return text
        return f"log(max(max({text}, 0.0) + {number_text(error.offset, 'r')}, {_SMALLEST}))"

    def _error(self, name: str) -> str:
        error = self.spec.likelihood[name]
        sigma = {key: self.sigmas[error_name(name, key)] for key in error.parameters}
        match error.family:
            case "lognormal":
                return f"add({sigma['log_sd']})"
            case "student_t":
                return f"add({sigma['log_sd']}) + t({self._df(name)})"
            case "combined":
                return f"add({sigma['additive']}) + prop({sigma['proportional']}) + combined2()"
            case "power":
                return f"pow({sigma['coefficient']}, {sigma['exponent']})"
            case "additive":
                return f"add({sigma['additive']})"
            case "proportional":
                return f"prop({sigma['proportional']})"
        raise ValueError(f"no such error model: {error.family}")

    def tail(self) -> list[str]:
        data = f"{self.found.name}.rxode2.csv"
        note = "" if self.found.data is not None else "  # the study data were not at hand"
        return ["", "# Priors are comments: a maximum of the likelihood alone may differ from posterior medians",
                "# where the data say little.",
                f'# data <- read.csv("{data}", na.strings = "."){note}',
                f'# fit <- nlmixr2::nlmixr2({self.function}, data, est = "focei")']
