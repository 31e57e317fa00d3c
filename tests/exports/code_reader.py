"""Small readers of exported NM-TRAN and rxode2 code, for tests only: what the text says is solved by SciPy.

They know what the exports use and no more. NONMEM evaluates $PK at each record and integrates up to it with those
values; rxode2 gives doses before it predicts, and carries covariates forward.
"""

import csv
import io
import math
import re

import numpy as np
from scipy.integrate import solve_ivp
from scipy.stats import norm

_CALLS = {"exp": math.exp, "log": math.log, "abs": abs, "max": max, "min": min, "sqrt": math.sqrt, "atan": math.atan,
          "sin": math.sin, "cos": math.cos, "phi": norm.cdf,
          "ifelse": lambda condition, yes, no: yes if condition else no}


_SIGNS = {"EQ": "==", "NE": "!=", "LT": "<", "LE": "<=", "GT": ">", "GE": ">=", "AND": " and ", "OR": " or "}


class Array(dict):
    """A(3) on the right of an assignment, A[3] on the left."""

    def __call__(self, place):
        return self[place]


def records(text):
    """Rows of a data file as numbers; text stays text and . is 0."""
    def value(cell):
        try:
            return float(cell)
        except ValueError:
            return 0.0 if cell == "." else cell

    return [{name: value(cell) for name, cell in row.items()} for row in csv.DictReader(io.StringIO(text))]


def integrate(rate, start, end, state, infusions):
    """To the end, in pieces between which nothing jumps; `infusions` are (begin, end, place, rate)."""
    edges = sorted({t for b, e, _, _ in infusions for t in (b, e) if start < t < end} | {start, end})
    for a, b in zip(edges[:-1], edges[1:], strict=True):
        running = [(place, speed) for begin, stop, place, speed in infusions if begin <= a and stop >= b]

        def right(t, y, running=running):
            dy = np.array(rate(t, y))
            for place, speed in running:
                dy[place] += speed
            return dy

        state = solve_ivp(right, (a, b), state, method="LSODA", rtol=1e-9, atol=1e-11).y[:, -1]
    return state


# --- NM-TRAN -------------------------------------------------------------------------------------------------------


class ControlStream:
    def __init__(self, text):
        assert all(len(line) <= 160 for line in text.splitlines())  # what NM-TRAN reads
        text = re.sub(r"\s*&\n\s*", " ", text)
        lines = [line.split(";")[0].rstrip() for line in text.splitlines()]
        self.blocks: dict[str, list[str]] = {}
        name = ""
        for line in lines:
            if found := re.match(r"\$([A-Z]+)\s*(.*)", line):
                name, line = found[1], found[2]
            if line.strip():
                self.blocks.setdefault(name, []).append(line.strip())
        self.columns = " ".join(self.blocks["INPUT"]).split()
        self.thetas = [self._initial(line) for line in self.blocks["THETA"]]
        self.states = sum(line.startswith("COMP=") for line in self.blocks["MODEL"])
        self.code = {name: self._compile(name) for name in ("PK", "DES", "ERROR")}

    @staticmethod
    def _initial(line):
        inside = re.match(r"\(([^)]*)\)", line)
        parts = inside[1].split(",") if inside else [line.split()[0]]
        return float(parts[min(1, len(parts) - 1)])

    def _compile(self, block):
        depth, lines = 0, []
        for line in self.blocks[block]:
            text = re.sub(r"\.(EQ|NE|LT|LE|GT|GE|AND|OR)\.",
                          lambda m: _SIGNS[m[1]], line)
            text = re.sub(r"^(IF \(.*\) )?(DADT|A_0)\((\d+)\) =", r"\1\2[\3] =", text)
            if text == "ENDIF":
                depth -= 1
            elif text.startswith("IF") and text.endswith("THEN"):
                lines.append("    " * depth + f"if {text[2:-4].strip()}:")
                depth += 1
            elif text.startswith("IF"):
                condition, rest = re.match(r"IF (\(.*?\)) (\w+ = .*)", text).groups()
                lines.append("    " * depth + f"if {condition}: {rest}")
            else:
                lines.append("    " * depth + text)
        return compile("\n".join(lines), f"${block}", "exec")

    def run(self, block, values):
        exec(self.code[block], {"__builtins__": {}}, values)
        return values

    def solve(self, rows, etas):
        """Variables after $ERROR of every measurement of one subject."""
        shared = {name.upper(): call for name, call in _CALLS.items()}
        shared |= {"THETA": lambda k: self.thetas[k - 1], "ETA": lambda k: etas[k - 1], "EPS": lambda k: 0.0}
        state, time, infusions, found = None, None, [], []
        for row in rows:
            values = {**shared, **dict(zip(self.columns, row.values(), strict=True)), "A_0FLG": int(state is None),
                      "A_0": Array()}
            self.run("PK", values)
            if state is None:
                state, time = np.array([values["A_0"][k + 1] for k in range(self.states)]), row["TIME"]

            def rate(t, y, values=values):
                here = self.run("DES", {**values, "T": t, "A": Array(enumerate(y, 1)), "DADT": Array()})
                return [here["DADT"][k + 1] for k in range(self.states)]

            if row["TIME"] > time:
                state, time = integrate(rate, time, row["TIME"], state, infusions), row["TIME"]
            if row["EVID"] == 0:
                found.append(self.run("ERROR", {**values, "A": Array(enumerate(state, 1))}))
            elif row["EVID"] == 1:
                place = int(row["CMT"])
                amount = values.get(f"F{place}", 1.0) * row["AMT"]
                if values.get("RATE", 0) == -2:
                    lasting = values[f"D{place}"]
                    infusions.append((time, time + lasting, place - 1, amount / lasting))
                else:
                    state[place - 1] += amount
        return found


# --- R -------------------------------------------------------------------------------------------------------------


class RFunction:
    def __init__(self, text):
        lines = [line.split("#")[0].strip() for line in text.splitlines()]
        lines = [line for line in lines if line]
        begin, middle = lines.index("ini({"), lines.index("model({")
        self.initial = lines[begin + 1:lines.index("})")]
        self.lines = lines[middle + 1:lines.index("})", middle)]
        self.states = [found[1] for line in self.lines if (found := re.match(r"d/dt\((\w+)\)", line))]
        self.ends = {found[3]: (found[1], found[2]) for line in self.lines
                     if (found := re.match(r"(\w+) ~ (.*) \| (\w+)", line))}
        source = []
        for line in self.lines:
            if "<-" not in line:
                continue
            left, right = (part.strip() for part in line.split("<-", 1))
            left = re.sub(r"d/dt\((\w+)\)", r"rates['\1']", left)
            left = re.sub(r"^(\w+)\(0\)", r"begin['\1']", left)
            left = re.sub(r"^(f|dur)\((\w+)\)", r"\1_['\2']", left)
            source.append(f"{left} = {right.replace('^', '**')}")
        self.code = compile("\n".join(source), "model", "exec")

    def value(self, name):
        """What ini gives a name."""
        [line] = [line for line in self.initial if re.match(rf"{name} (<-|~) ", line)]
        text = re.split(r" (?:<-|~) ", line)[1]
        numbers = [float(part) for part in re.findall(r"-?[\d.]+(?:e[+-]?\d+)?|-?Inf", text)]
        number = numbers[min(1, len(numbers) - 1)] if text.startswith("c(") else numbers[0]
        return math.log(number) if text.startswith("log(") else number

    def run(self, values):
        names = [re.split(r" <- ", line)[0] for line in self.initial if " <- " in line]
        everything = {**_CALLS, **{name: self.value(name) for name in names}, **values, "rates": {}, "begin": {},
                      "f_": {}, "dur_": {}}
        exec(self.code, {"__builtins__": {}}, everything)
        return everything

    def solve(self, rows, etas):
        """Predictions of one subject by row, doses first."""
        state, time, infusions, found, held = None, None, [], [], {}
        for row in sorted(rows, key=lambda r: (r["TIME"], r["EVID"] == 0)):
            now = {**row, **etas}
            if state is None:
                state = [0.0] * len(self.states)
                first = self.run({**now, "t": row["TIME"], **dict.fromkeys(self.states, 0.0)})
                state, time, held = np.array([first["begin"][name] for name in self.states]), row["TIME"], now

            def rate(t, y, values=held):
                here = self.run({**values, "t": t, **dict(zip(self.states, y, strict=True))})
                return [here["rates"][name] for name in self.states]

            if row["TIME"] > time:
                state, time = integrate(rate, time, row["TIME"], state, infusions), row["TIME"]
            here = self.run({**now, "t": time, **dict(zip(self.states, state, strict=True))})
            held = now
            if row["EVID"] == 0:
                found.append((row, here[self.ends[row["DVID"]][0]]))
            elif row["EVID"] == 1:
                place = int(row["CMT"]) - 1
                amount = here["f_"].get(self.states[place], 1.0) * row["AMT"]
                if row.get("RATE", 0) == -2:
                    lasting = here["dur_"][self.states[place]]
                    infusions.append((time, time + lasting, place, amount / lasting))
                else:
                    state[place] += amount
        return found
