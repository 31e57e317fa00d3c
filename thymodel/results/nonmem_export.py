"""A spec or a record as a NONMEM control stream with its data file, for an independent rerun.

The equations are those of the model document in NM-TRAN's abbreviated code; parameters start at posterior medians. What
NM-TRAN cannot say is refused by name (see `population_export`). Censored values are in the likelihood (Beal's M3).
"""

import math
from pathlib import Path

from thymodel.documents.code_text import Code, Names, number_text, wrapped
from thymodel.documents.priors import support
from thymodel.errors import Fault, InputError
from thymodel.inference.population import error_name
from thymodel.results.population_export import INTERVAL, PopulationModel, columns, data_text, error_scale, prior_text
from thymodel.results.record import write_file

_LONGEST_LINE = 160
_NEAR_ZERO = 0.001  # NM-TRAN takes no 0 for an estimated THETA, and one in a block of OMEGA as fixed
_SMALLEST = "1.0E-60"  # of a prediction whose logarithm or power is taken, as in our own likelihood


def save_control_stream(found: PopulationModel, folder: Path) -> list[Path]:
    """The control stream and, where the data are at hand, its data file.

    Raises:
        InputError: the folder holds such files already, or cannot be written.
    """
    files = {f"{found.name}.ctl": control_stream(found)}
    if found.data is not None:
        files[f"{found.name}.nonmem.csv"] = data_text(found, "nonmem", _Stream(found).shared)
    return save_texts(files, folder)


def save_texts(files: dict[str, str], folder: Path) -> list[Path]:
    """Files in a folder, which is made; none is written over."""
    there = [name for name in files if (folder / name).exists()]
    if there:
        raise InputError([Fault(str(folder / name), "is there already", "give another --out") for name in there])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            write_file(folder / name, text.encode())
    except OSError as error:
        raise InputError([Fault(str(folder), f"cannot be written: {error.strerror}")]) from None
    return [folder / name for name in files]


def control_stream(found: PopulationModel) -> str:
    """The control stream as text."""
    writer = _Stream(found)
    parts = [writer.head(), writer.pk(), writer.des(), writer.error(), writer.initial_values(), writer.tail()]
    return "\n".join(_clipped(line) for part in parts for line in [*part, ""])


def _clipped(line: str) -> str:
    """A line whose comment is cut off where NM-TRAN would not read on."""
    return line if ";" not in line else line[:max(_LONGEST_LINE, line.index(";") + 1)]


class _Stream:
    """Names and numbers that the blocks of one control stream share."""

    def __init__(self, found: PopulationModel):
        self.found, self.spec, self.model = found, found.spec, found.model
        self.names = Names("nonmem")
        # covariates are columns, so they come first and keep their names where they can
        self.shared = {name: self.names.new(name) for name in found.covariates}
        self.shared |= {name: self.names.new(name) for name in [*found.constants, *found.parameters, *found.static]}
        self.typical = {name: self.names.new(f"TV{name}") for name in found.parameters}
        self.states = {name: f"A({k})" for k, name in enumerate(self.model.states, 1)}
        self.thetas = [*[n for n in found.parameters if n in self.spec.estimate or n.startswith("beta_")],
                       *[n for n in found.parameters if n not in self.spec.estimate and not n.startswith("beta_")]]
        self.errors = [error_name(name, key) for name, error in self.spec.likelihood.items()
                       for key in error.parameters]
        self.etas = [*self.spec.correlated, *[n for n in self.spec.between_subject if n not in self.spec.correlated]]

    def theta(self, name: str) -> str:
        return f"THETA({[*self.thetas, *self.errors].index(name) + 1})"

    def eta(self, name: str) -> str:
        return f"ETA({self.etas.index(name) + 1})"

    def _code(self, time: str) -> Code:
        start = self.model.start
        moment = f"({time} + {number_text(start, 'nonmem')})".replace("+ -", "- ") if start else time
        return Code("nonmem", self.names, {**self.shared, **self.states, "t": moment, "amount": "AMT", "pi":
                                           number_text(math.pi, "nonmem")})

    # --- blocks ----------------------------------------------------------------------------------------------

    def head(self) -> list[str]:
        found, model = self.found, self.model
        note = ("SIMULATED data. " if self.spec.simulated else "") + self.spec.title
        names = [self.shared.get(name, name) for name in columns(found, "nonmem")]
        states = [f"COMP=({Names('nonmem').new(f'C{k}_{name}')})  ; {k}: {name}, {state.unit}"
                  for k, (name, state) in enumerate(model.states.items(), 1)]
        data = f"{found.name}.nonmem.csv"
        return [
            *([f"$SIZES PC={len(states) + 5} LTH={len(self.thetas) + len(self.errors) + 10}"]
              if len(states) > 30 or len(self.thetas) > 80 else []),  # NONMEM's own limits are 30 and 100
            f"$PROBLEM {_plain(note)[:70]}",
            "; Written by thymodel. This text was never run by its writer: NONMEM is not part of thymodel.",
            f"; {_plain(found.origin)}",
            f"; model {model.name}, sha256 {model.digest}", f"; spec sha256 {self.spec.digest}",
            f"; TIME counts {model.time}s from the model's start, {model.start:g}.",
            "; ID numbers subjects in the order of the data.",
            *[f"; DVID {k}: {name}, {error_scale(self.spec.likelihood[name])}"
              for k, name in enumerate(found.observables, 1)],
            f"; CENS 1: below DV; -1: above DV; {INTERVAL}: between LOWER and DV.",
            *wrapped(f"$INPUT {' '.join(names)}"),
            f"$DATA {data} IGNORE=@{'' if found.data is not None else '  ; the study data were not at hand'}",
            "$SUBROUTINES ADVAN13 TOL=9",
            f"$MODEL NCOMPARTMENTS={len(states)}", *[f"  {line}" for line in states]]

    def pk(self) -> list[str]:
        found, model, code = self.found, self.model, self._code("TIME")
        for name in found.constants:
            code.put(self.shared[name], number_text(model.constants[name].value, "nonmem"), model.constants[name].unit)
        for name in found.parameters:
            code.put(self.typical[name], self.theta(name), f"{name}, {model.parameters[name].unit}")
            code.put(self.shared[name], self._individual(name))
        for name in found.static:
            other = "" if self.shared[name] == name.upper() else name
            code.assign(self.shared[name], model.expressions[name], other)
        self._bioavailability(code)
        initial = [code.text(state.initial) for state in model.states.values()]
        code.lines.append("IF (A_0FLG.EQ.1) THEN")
        for k, text in enumerate(initial, 1):
            code.put(f"A_0({k})", text)
        return ["$PK", *code.lines, "ENDIF"]

    def _individual(self, name: str) -> str:
        text = self.typical[name]
        for key, item in self.spec.between_subject.items():
            if name not in item.parameters:
                continue
            eta = self.eta(key)
            if item.scale == "log":
                text = f"{text} * EXP({eta})"
            elif item.scale == "logit":
                text = f"1.0 / (1.0 + (1.0 - {text}) / ({text}) * EXP(-{eta}))"
            else:
                text = f"{text} + {eta}"
        return text

    def _bioavailability(self, code: Code) -> None:
        for k, state in enumerate(self.model.states, 1):
            here = [effect for effect in self.found.effects if effect.state == state]
            if any(effect.factor != 1 for effect in here):
                code.put(f"F{k}", "1.0")
            for effect in here:
                if effect.factor != 1:
                    name, factor = list(self.model.inputs)[effect.input - 1], code.text(effect.factor)
                    code.lines.append(f"IF (INP.EQ.{effect.input}) THEN  ; {name}")
                    code.put(f"F{k}", factor)
                    code.lines.append("ENDIF")
            if here and self.found.has_infusions:
                code.put(f"D{k}", "IDUR")

    def des(self) -> list[str]:
        code = self._code("T")
        self._moving(code, self.found.used[0], "D_")
        for k, state in enumerate(self.model.states.values(), 1):
            code.assign(f"DADT({k})", state.rate)
        return ["$DES", *code.lines]

    def _moving(self, code: Code, names: list[str], prefix: str) -> None:
        """Expressions of states and time; a block may not set a variable of another one."""
        for name in names:
            if name not in self.shared:
                code.known[name] = self.names.new(f"{prefix}{name}")
                code.assign(code.known[name], self.model.expressions[name])

    def error(self) -> list[str]:
        code = self._code("TIME")
        self._moving(code, self.found.used[1], "E_")
        predicted = {name: self._predicted(code, name) for name in self.found.observables}
        code.put("IPRED", "0.0")
        code.put("W", "1.0")
        code.put("DFT", "0.0", "degrees of freedom where the error is Student's")
        for number, (name, texts) in enumerate(predicted.items(), 1):
            code.lines.append(f"IF (DVID.EQ.{number}) THEN  ; {name}, {self.model.observables[name].unit}")
            for target, text in zip(("IPRED", "W"), texts, strict=True):
                code.put(target, text)
            if self.spec.likelihood[name].family == "student_t":
                code.put("DFT", number_text(self.spec.likelihood[name].df, "nonmem"))
            code.lines.append("ENDIF")
        lines = ["$ERROR", *code.lines, "Z = (DV - IPRED) / W", "F_FLAG = 0", "Y = IPRED + W * EPS(1)"]
        lines += ["IF (CENS.EQ.1) THEN", "F_FLAG = 1", "Y = PHI(Z)", "ENDIF",
                  "IF (CENS.EQ.-1) THEN", "F_FLAG = 1", "Y = PHI(-Z)", "ENDIF",
                  f"IF (CENS.EQ.{INTERVAL}) THEN", "F_FLAG = 1", "Y = PHI(Z) - PHI((LOWER - IPRED) / W)", "ENDIF"]
        students = {name: error.df for name, error in self.spec.likelihood.items() if error.family == "student_t"}
        for df in sorted(set(students.values())):
            lines += self._student(df, [name for name, own in students.items() if own == df])
        return lines

    def _predicted(self, code: Code, name: str) -> tuple[str, str]:
        """Prediction and spread of an observable on the scale of its error."""
        error = self.spec.likelihood[name]
        sigma = {key: self.theta(error_name(name, key)) for key in error.parameters}
        seen = self.names.new(f"P_{name}")
        code.assign(seen, self.model.observables[name].value)
        match error.family:
            case "lognormal" | "student_t":
                if error.offset > 0:
                    return f"LOG({code.most(seen, '0.0')} + {number_text(error.offset, 'nonmem')})", sigma["log_sd"]
                return f"LOG({code.most(seen, _SMALLEST)})", sigma["log_sd"]
            case "additive":
                return seen, sigma["additive"]
            case "proportional":
                return seen, f"{sigma['proportional']} * {code.most(f'ABS({seen})', _SMALLEST)}"
            case "combined":
                return seen, f"SQRT({sigma['additive']}**2 + ({sigma['proportional']} * {seen})**2)"
            case "power":
                return seen, f"{sigma['coefficient']} * {code.most(f'ABS({seen})', _SMALLEST)}**{sigma['exponent']}"
        raise ValueError(f"no such error model: {error.family}")

    def _student(self, df: float, observables: list[str]) -> list[str]:
        """-2 log density as F_FLAG 2 wants it; with every constant."""
        constant = -2 * (math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(df * math.pi))
        nu = number_text(df, "nonmem")
        here = f"DFT.EQ.{nu}.AND."
        lines = [f"IF ({here}CENS.EQ.0) THEN  ; Student-t with {df:g} degrees of freedom", "F_FLAG = 2",
                 *wrapped(f"Y = {number_text(constant, 'nonmem')} + 2.0 * LOG(W) + {number_text(df + 1, 'nonmem')} "
                          f"* LOG(1.0 + Z**2 / {nu})"), "ENDIF"]
        codes = {code for name in observables for code in self._codes(name)}
        if df == int(df) and codes:
            upper, lower = _student_cdf("Z", int(df)), _student_cdf("((LOWER - IPRED) / W)", int(df))
            texts = {1: upper, -1: f"1.0 - ({upper})", INTERVAL: f"{upper} - ({lower})"}
            for code, text in ((code, texts[code]) for code in texts if code in codes):
                lines += [f"IF ({here}CENS.EQ.{code}) THEN", "F_FLAG = 1", *wrapped(f"Y = {text}"), "ENDIF"]
        return lines

    def _codes(self, observable: str) -> set[int]:
        """Of the censored values that the data hold; all where the data are not at hand."""
        if self.found.data is None:
            return {1, -1, INTERVAL}
        return {INTERVAL if o.censoring == 1 and not math.isnan(o.limit) else o.censoring
                for one in self.found.data.subjects for o in one.observations if o.observable == observable} - {0}

    # --- numbers ---------------------------------------------------------------------------------------------

    def initial_values(self) -> list[str]:
        lines = ["$THETA"]
        for name in [*self.thetas, *self.errors]:
            lines.append(f"  {self._theta_text(name)}  ; {name}{self.found.about(name)}")
        size = len(self.spec.correlated)
        if size:
            lines.append(f"$OMEGA BLOCK({size})")
            for k, name in enumerate(self.etas[:size]):
                row = [self._covariance(name, other) for other in self.etas[:k + 1]]
                lines.append(f"  {' '.join(row)}  ; {name}{self.found.about(f'omega_{name}')}")
        for name in self.etas[size:]:
            fixed = " FIX" if prior_text(self.spec, f"omega_{name}") == "stated" else ""
            lines.append(f"$OMEGA {self._covariance(name, name)}{fixed}  ; {name}{self.found.about(f'omega_{name}')}")
        if not self.etas:
            lines.append("$OMEGA 0 FIX  ; no random effect")
        return [*lines, "$SIGMA 1 FIX  ; standard deviations are among the THETAs"]

    def _theta_text(self, name: str) -> str:
        value = number_text(self.found.values[name], "nonmem")
        if name in self.thetas and name not in self.spec.estimate and not name.startswith("beta_"):
            return f"{value} FIX"
        low, high = self._support(name)
        if self.found.values[name] == 0 and low < 0:
            value = number_text(_NEAR_ZERO, "nonmem")
        below, above = (number_text(bound, "nonmem") if math.isfinite(bound) else "" for bound in (low, high))
        if above:
            return f"({below or '-INF'}, {value}, {above})"
        return f"({below}, {value})" if below else value

    def _support(self, name: str) -> tuple[float, float]:
        if name in self.spec.estimate:
            return support(self.spec.estimate[name].prior)
        if name in self.errors:
            return 0.0, math.inf
        return -math.inf, math.inf

    def _covariance(self, a: str, b: str) -> str:
        found = self.found.covariance(a, b)
        near = _NEAR_ZERO * math.sqrt(self.found.covariance(a, a) * self.found.covariance(b, b))
        return number_text(found or near, "nonmem")

    def tail(self) -> list[str]:
        return ["; MAXEVAL=0 evaluates the objective at these values without estimating. Priors are comments:",
                "; a maximum of the likelihood alone may differ from posterior medians where the data say little.",
                "$ESTIMATION METHOD=COND LAPLACE INTERACTION MAXEVAL=9999 NSIG=3 PRINT=5 NOABORT",
                "$COVARIANCE UNCONDITIONAL",
                f"$TABLE ID TIME DVID DV CENS IPRED W NOPRINT ONEHEADER FILE={self.found.name[:20]}.tab"]


def _student_cdf(z: str, df: int) -> str:
    """P(T < z) for a whole number of degrees of freedom, in closed form.

    Source: Abramowitz & Stegun 26.7.3 and 26.7.4, with theta = atan(z/sqrt(df)).
    """
    nu = number_text(df, "nonmem")
    sine, square = f"{z} / SQRT({nu} + {z}**2)", f"({nu} / ({nu} + {z}**2))"
    coefficient, series = 1.0, "0.0"
    terms = []
    for power in range((df - 1) // 2 if df % 2 else df // 2):
        terms.append(coefficient)
        coefficient *= (2 * power + 2) / (2 * power + 3) if df % 2 else (2 * power + 1) / (2 * power + 2)
    for value in reversed(terms):  # Horner's scheme in the squared cosine
        number = number_text(value, "nonmem")
        series = number if series == "0.0" else f"({number} + {square} * {series})"
    if df % 2 == 0:
        return f"0.5 + 0.5 * {sine} * {series}"
    angle = f"ATAN({z} / SQRT({nu}))"
    pi = number_text(math.pi, "nonmem")
    if df == 1:
        return f"0.5 + {angle} / {pi}"
    return f"0.5 + ({angle} + {sine} * SQRT{square} * {series}) / {pi}"


def _plain(text: str) -> str:
    """One line of ASCII, which NM-TRAN reads."""
    return " ".join(text.encode("ascii", "replace").decode().replace(";", ",").split())
