"""Operation lists as LLVM IR text: eight subjects a vector, one function a phase, loops over groups and rows.

Every array is of vectors: `state[k]` is state k of the eight subjects of a group. Loads and stores assume no more than
the alignment of a double, since buffers come from XLA.
"""

import struct
from collections.abc import Callable, Sequence

from thymodel.dynamics.kernel.step import ROW, Output, Phase, Phases
from thymodel.dynamics.kernel.tape import COMPARISONS, Operation, needed, number

LANES = 8
BYTES = 8 * LANES
V = f"<{LANES} x double>"
I = f"<{LANES} x i64>"  # noqa: E741
_ARRAYS = ("state", "parameter", "row", "tolerance", "error", "observed", "observed_cotangent", "state_cotangent",
           "parameter_cotangent")
_SIGNATURE = ", ".join(f"ptr %{name}" for name in _ARRAYS)
_LANE_CALLS = {"log1p": "log1p", "tanh": "tanh", "sin": "sin", "cos": "cos"}
_PREDICATES = {"lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge", "equal": "oeq"}
_EXP = [1.0]
for _k in range(1, 14):
    _EXP.append(_EXP[-1] / _k)  # Taylor: the remainder at |r| = ln(2)/2 is 4e-18
_LOG = [6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01, 2.222219843214978396e-01,
        1.818357216161805012e-01, 1.531383769920937332e-01, 1.479819860511658591e-01]
_SHIFT = float(3 << 51)  # adding it rounds to a whole number, whose two's complement is then in the low bits

DECLARATIONS = "\n".join([
    *[f"declare {V} @llvm.{name}.v{LANES}f64({V}, {V})" for name in ("maximum", "minimum")],
    *[f"declare {V} @llvm.{name}.v{LANES}f64({V})" for name in ("fabs", "sqrt")],
    f"declare {V} @llvm.fmuladd.v{LANES}f64({V}, {V}, {V})",
    f"declare {V} @llvm.masked.gather.v{LANES}f64.v{LANES}p0(<{LANES} x ptr>, i32, <{LANES} x i1>, {V})",
    f"declare void @llvm.masked.scatter.v{LANES}f64.v{LANES}p0({V}, <{LANES} x ptr>, i32, <{LANES} x i1>)",
    "declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)",
    "declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)",
    *[f"declare double @{name}(double)" for name in ("log1p", "tanh", "sin", "cos")],
])


def splat(value: float) -> str:
    bits = struct.unpack("<Q", struct.pack("<d", value))[0]
    return f"splat (double 0x{bits:016X})"


def phase_text(name: str, phase: Phase, observables: int) -> str:
    """One phase as a function; results are stored after everything has been read."""
    lines: list[str] = []
    used = needed(phase.tape, [output.place for output in phase.outputs])
    operations = phase.tape.operations
    arrays = {operations[p].source[0] for p in used} | {output.array for output in phase.outputs}
    if arrays & {"observed", "observed_cotangent"}:
        lines += _visit_offsets(observables)

    def ref(place: int) -> str:
        value = number(phase.tape, place)
        return f"%v{place}" if value is None else splat(value)

    for place in used:
        if operations[place].name != "constant":
            lines += _operation(place, operations[place], ref)
    for output in phase.outputs:
        lines += _store(output, ref(output.place))
    body = "\n".join(f"  {line}" for line in lines)
    return f"define internal void @{name}({_SIGNATURE}) noinline {{\n{body}\n  ret void\n}}\n"


def _operation(place: int, operation: Operation, ref: Callable[[int], str]) -> list[str]:
    out, args = f"%v{place}", [ref(a) for a in operation.args]
    name = operation.name
    binary = {"add": "fadd", "subtract": "fsub", "multiply": "fmul"}
    unary = {"abs": "fabs", "sqrt": "sqrt"}
    if name in binary:
        return [f"{out} = {binary[name]} contract {V} {args[0]}, {args[1]}"]
    if name == "input":
        return _load(out, *operation.source)
    if name == "negative":
        return [f"{out} = fneg contract {V} {args[0]}"]
    if name == "reciprocal":
        return [f"{out} = fdiv contract {V} {splat(1.0)}, {args[0]}"]
    if name in COMPARISONS:
        return [f"{out} = fcmp {_PREDICATES[name]} {V} {args[0]}, {args[1]}"]
    if name == "select":
        return [f"{out} = select <{LANES} x i1> {args[0]}, {V} {args[1]}, {V} {args[2]}"]
    if name in ("max", "min"):
        return [f"{out} = call {V} @llvm.{name}imum.v{LANES}f64({V} {args[0]}, {V} {args[1]})"]
    if name in unary:
        return [f"{out} = call {V} @llvm.{unary[name]}.v{LANES}f64({V} {args[0]})"]
    if name in _LANE_CALLS:
        return _by_lane(out, _LANE_CALLS[name], args)
    if name == "power":
        return _power(out, *args)
    return _FUNCTIONS[name](out, args[0])


def _by_lane(out: str, function: str, args: Sequence[str]) -> list[str]:
    """A scalar function of the C library, lane after lane: slow, for what is rare in a step."""
    lines, last = [], "poison"
    for lane in range(LANES):
        lines += [f"{out}.a{k}.{lane} = extractelement {V} {a}, i32 {lane}" for k, a in enumerate(args)]
        inner = ", ".join(f"double {out}.a{k}.{lane}" for k in range(len(args)))
        lines.append(f"{out}.c{lane} = call double @{function}({inner})")
        new = out if lane == LANES - 1 else f"{out}.r{lane}"
        lines.append(f"{new} = insertelement {V} {last}, double {out}.c{lane}, i32 {lane}")
        last = new
    return lines


def _exp(out: str, x: str) -> list[str]:
    """exp without branches, to about one unit in the last place; NaN stays NaN, overflow is inf, underflow gradual.

    Source: x = k*ln2 + r with |r| <= ln2/2, ln2 in two parts (W. Cody, W. Waite, Software Manual for the Elementary
    Functions, 1980, ch. 6), then Taylor's series in r.
    """
    lines = [
        f"{out}.big = fcmp ogt {V} {x}, {splat(720.0)}",
        f"{out}.x1 = select <{LANES} x i1> {out}.big, {V} {splat(720.0)}, {V} {x}",
        f"{out}.small = fcmp olt {V} {x}, {splat(-760.0)}",
        f"{out}.x = select <{LANES} x i1> {out}.small, {V} {splat(-760.0)}, {V} {out}.x1",
        _fma(f"{out}.k", f"{out}.x", splat(1.4426950408889634), splat(_SHIFT)),
        f"{out}.n = fsub {V} {out}.k, {splat(_SHIFT)}",
        _fma(f"{out}.r1", f"{out}.n", splat(-6.93147180369123816490e-01), f"{out}.x"),
        _fma(f"{out}.r", f"{out}.n", splat(-1.90821492927058770002e-10), f"{out}.r1"),
        f"{out}.s = fmul {V} {out}.r, {out}.r",
    ]
    for part, first in (("e", 12), ("o", 13)):
        last = splat(_EXP[first])
        for k in range(first - 2, -1, -2):
            lines.append(_fma(f"{out}.{part}{k}", last, f"{out}.s", splat(_EXP[k])))
            last = f"{out}.{part}{k}"
    lines += [
        _fma(f"{out}.p", f"{out}.o1", f"{out}.r", f"{out}.e0"),
        f"{out}.bits = bitcast {V} {out}.k to {I}",
        f"{out}.whole = sub {I} {out}.bits, splat (i64 {struct.unpack('<q', struct.pack('<d', _SHIFT))[0]})",
        f"{out}.h1 = ashr {I} {out}.whole, splat (i64 1)",  # two halves, so that neither overflows by itself
        f"{out}.h2 = sub {I} {out}.whole, {out}.h1",
    ]
    last = f"{out}.p"
    for half, new in (("1", f"{out}.q"), ("2", out)):
        lines += [f"{out}.b{half} = add {I} {out}.h{half}, splat (i64 1023)",
                  f"{out}.t{half} = shl {I} {out}.b{half}, splat (i64 52)",
                  f"{out}.f{half} = bitcast {I} {out}.t{half} to {V}",
                  f"{new} = fmul {V} {last}, {out}.f{half}"]
        last = new
    return lines


def _log(out: str, x: str) -> list[str]:
    """log without branches, to about one unit in the last place; -inf at 0, NaN below.

    Source: x = 2**k*(1 + f), the series in s = f/(2 + f) with the coefficients of fdlibm's e_log.c (Sun Microsystems).
    """
    root_half = 0x3FE6A09E667F3BCD  # bits of sqrt(1/2), so that 1 + f lies between it and sqrt(2)
    lines = [
        f"{out}.tiny = fcmp olt {V} {x}, {splat(2.0**-1022)}",
        f"{out}.up = fmul {V} {x}, {splat(2.0**54)}",
        f"{out}.x = select <{LANES} x i1> {out}.tiny, {V} {out}.up, {V} {x}",
        f"{out}.back = select <{LANES} x i1> {out}.tiny, {V} {splat(54.0)}, {V} {splat(0.0)}",
        f"{out}.bits = bitcast {V} {out}.x to {I}",
        f"{out}.above = sub {I} {out}.bits, splat (i64 {root_half})",
        f"{out}.ki = ashr {I} {out}.above, splat (i64 52)",
        f"{out}.shifted = shl {I} {out}.ki, splat (i64 52)",
        f"{out}.mi = sub {I} {out}.bits, {out}.shifted",
        f"{out}.m = bitcast {I} {out}.mi to {V}",
        f"{out}.kb = add {I} {out}.ki, splat (i64 {struct.unpack('<q', struct.pack('<d', _SHIFT))[0]})",
        f"{out}.kd = bitcast {I} {out}.kb to {V}",
        f"{out}.k0 = fsub {V} {out}.kd, {splat(_SHIFT)}",
        f"{out}.k = fsub {V} {out}.k0, {out}.back",
        f"{out}.f = fsub {V} {out}.m, {splat(1.0)}",
        f"{out}.f2 = fadd {V} {out}.f, {splat(2.0)}",
        f"{out}.s = fdiv {V} {out}.f, {out}.f2",
        f"{out}.z = fmul {V} {out}.s, {out}.s",
    ]
    last = splat(_LOG[-1])
    for k in range(len(_LOG) - 2, -1, -1):
        lines.append(_fma(f"{out}.l{k}", last, f"{out}.z", splat(_LOG[k])))
        last = f"{out}.l{k}"
    lines += [
        f"{out}.h1 = fmul {V} {out}.f, {splat(0.5)}", f"{out}.h = fmul {V} {out}.h1, {out}.f",
        _fma(f"{out}.hr", last, f"{out}.z", f"{out}.h"),
        f"{out}.klow = fmul {V} {out}.k, {splat(1.90821492927058770002e-10)}",
        _fma(f"{out}.a", f"{out}.s", f"{out}.hr", f"{out}.klow"),
        f"{out}.b = fsub {V} {out}.h, {out}.a", f"{out}.c = fsub {V} {out}.b, {out}.f",
        f"{out}.khigh = fmul {V} {out}.k, {splat(6.93147180369123816490e-01)}",
        f"{out}.value = fsub {V} {out}.khigh, {out}.c",
        f"{out}.finite = fcmp olt {V} {x}, {splat(float('inf'))}",
        f"{out}.v1 = select <{LANES} x i1> {out}.finite, {V} {out}.value, {V} {x}",  # inf and NaN as they are
        f"{out}.zero = fcmp oeq {V} {x}, {splat(0.0)}",
        f"{out}.v2 = select <{LANES} x i1> {out}.zero, {V} {splat(float('-inf'))}, {V} {out}.v1",
        f"{out}.below = fcmp olt {V} {x}, {splat(0.0)}",
        f"{out} = select <{LANES} x i1> {out}.below, {V} {splat(float('nan'))}, {V} {out}.v2",
    ]
    return lines


def _power(out: str, x: str, exponent: str, log: str) -> list[str]:
    """exp(exponent*log|x|), with the sign that a whole exponent gives a negative base; x**0 is 1."""
    whole = f"<{LANES} x i1>"
    return [
        f"{out}.el = fmul {V} {exponent}, {log}", *_exp(f"{out}.exp", f"{out}.el"),
        f"{out}.none = fcmp oeq {V} {exponent}, {splat(0.0)}",
        f"{out}.size = select {whole} {out}.none, {V} {splat(1.0)}, {V} {out}.exp",
        f"{out}.up = fadd {V} {exponent}, {splat(_SHIFT)}", f"{out}.near = fsub {V} {out}.up, {splat(_SHIFT)}",
        f"{out}.whole = fcmp oeq {V} {out}.near, {exponent}",
        f"{out}.upbits = bitcast {V} {out}.up to {I}", f"{out}.low = and {I} {out}.upbits, splat (i64 1)",
        f"{out}.odd = icmp ne {I} {out}.low, splat (i64 0)",
        f"{out}.minus = fneg {V} {out}.size",
        f"{out}.signed = select {whole} {out}.odd, {V} {out}.minus, {V} {out}.size",
        f"{out}.real = select {whole} {out}.whole, {V} {out}.signed, {V} {splat(float('nan'))}",
        f"{out}.below = fcmp olt {V} {x}, {splat(0.0)}",
        f"{out} = select {whole} {out}.below, {V} {out}.real, {V} {out}.size",
    ]


def _fma(out: str, a: str, b: str, c: str) -> str:
    return f"{out} = call {V} @llvm.fmuladd.v{LANES}f64({V} {a}, {V} {b}, {V} {c})"


def _expit(out: str, x: str) -> list[str]:
    return [f"{out}.minus = fneg {V} {x}", *_exp(f"{out}.exp", f"{out}.minus"),
            f"{out}.sum = fadd {V} {out}.exp, {splat(1.0)}", f"{out} = fdiv {V} {splat(1.0)}, {out}.sum"]


def _softplus(out: str, x: str) -> list[str]:
    """max(x, 0) + log1p(exp(-|x|))."""
    return [f"{out}.abs = call {V} @llvm.fabs.v{LANES}f64({V} {x})", f"{out}.minus = fneg {V} {out}.abs",
            *_exp(f"{out}.exp", f"{out}.minus"), *_by_lane(f"{out}.log", "log1p", [f"{out}.exp"]),
            f"{out}.max = call {V} @llvm.maximum.v{LANES}f64({V} {x}, {V} {splat(0.0)})",
            f"{out} = fadd {V} {out}.max, {out}.log"]


def _sign(out: str, x: str) -> list[str]:
    return [f"{out}.up = fcmp ogt {V} {x}, {splat(0.0)}", f"{out}.down = fcmp olt {V} {x}, {splat(0.0)}",
            f"{out}.low = select <{LANES} x i1> {out}.down, {V} {splat(-1.0)}, {V} {splat(0.0)}",
            f"{out} = select <{LANES} x i1> {out}.up, {V} {splat(1.0)}, {V} {out}.low"]


_FUNCTIONS: dict[str, Callable[[str, str], list[str]]] = {
    "exp": _exp, "log": _log, "expit": _expit, "softplus": _softplus, "sign": _sign}


# --- memory ----------------------------------------------------------------------------------------------------


def _visit_offsets(observables: int) -> list[str]:
    """%offset: where each subject's own visit begins in the observations of its group (visit, observable, subject)."""
    lanes = ", ".join(f"i64 {lane}" for lane in range(LANES))
    return [f"%visit.p = getelementptr {V}, ptr %row, i64 {ROW.index('visit')}",
            f"%visit.f = load {V}, ptr %visit.p, align 8",
            f"%visit.i = fptosi {V} %visit.f to {I}",
            f"%visit.m = mul {I} %visit.i, splat (i64 {observables * LANES})",
            f"%offset = add {I} %visit.m, <{lanes}>"]


def _lane_pointers(name: str, array: str, index: int) -> list[str]:
    return [f"{name}.o = add {I} %offset, splat (i64 {index * LANES})",
            f"{name}.p = getelementptr double, ptr %{array}, {I} {name}.o"]


def _load(out: str, array: str, index: int) -> list[str]:
    if array == "observed_cotangent":
        return [*_lane_pointers(out, array, index),
                f"{out} = call {V} @llvm.masked.gather.v{LANES}f64.v{LANES}p0(<{LANES} x ptr> {out}.p, i32 8, "
                f"<{LANES} x i1> splat (i1 true), {V} {splat(0.0)})"]
    return [f"{out}.p = getelementptr {V}, ptr %{array}, i64 {index}", f"{out} = load {V}, ptr {out}.p, align 8"]


def _store(output: Output, value: str) -> list[str]:
    name = f"%{output.array}.{output.index}"
    if output.array == "observed":
        return [*_lane_pointers(name, "observed", output.index),
                f"call void @llvm.masked.scatter.v{LANES}f64.v{LANES}p0({V} {value}, <{LANES} x ptr> {name}.p, i32 8, "
                f"<{LANES} x i1> splat (i1 true))"]
    lines = [f"{name}.p = getelementptr {V}, ptr %{output.array}, i64 {output.index}"]
    if output.add:
        lines += [f"{name}.old = load {V}, ptr {name}.p, align 8", f"{name}.new = fadd {V} {name}.old, {value}"]
        value = f"{name}.new"
    return [*lines, f"store {V} {value}, ptr {name}.p, align 8"]


# --- loops -----------------------------------------------------------------------------------------------------

# bits of `flags`: what any subject of the group does in a row; 0: nothing
VISIT, JUMP, REGIME, STEP, REGIME_BACK = 1, 2, 4, 8, 16


def kernel_text(phases: Phases, states: int, parameters: int, inputs: int, observables: int) -> str:
    """The module without its handlers: `forward` and `backward` over groups and rows."""
    texts = [phase_text(name, phase, observables) for name, phase in phases._asdict().items()]
    sizes = {"N": states, "M": parameters, "R": len(ROW) + inputs, "O": observables}
    return "\n".join([DECLARATIONS, *texts, _regime_text(parameters, "load"), _regime_text(parameters, "flush"),
                      _forward_text(sizes), _backward_text(sizes)])


def _call(phase: str, **arrays: str) -> str:
    given = ", ".join(f"ptr {arrays.get(name, 'null')}" for name in _ARRAYS)
    return f"call void @{phase}({given})"


def _regime_text(parameters: int, what: str) -> str:
    """load: current[j] = all[c, j] where the subject is in regime c. flush: all[c, j] += current[j], and empties it."""
    if what == "load":
        update = [f"%new = select <{LANES} x i1> %mask, {V} %theirs, {V} %mine",
                  f"store {V} %new, ptr %mine.p, align 8"]
        after = ""
    else:
        update = [f"%part = select <{LANES} x i1> %mask, {V} %mine, {V} zeroinitializer",
                  f"%new = fadd {V} %theirs, %part", f"store {V} %new, ptr %theirs.p, align 8"]
        after = f"call void @llvm.memset.p0.i64(ptr %current, i8 0, i64 {parameters * BYTES}, i1 false)"
    inner = "\n  ".join(update)
    return f"""
define internal void @{what}(ptr %all, ptr %current, ptr %row, i64 %regimes) noinline {{
entry:
  %regime.p = getelementptr {V}, ptr %row, i64 {ROW.index("regime")}
  %regime.f = load {V}, ptr %regime.p, align 8
  %regime = fptosi {V} %regime.f to {I}
  %end = mul i64 %regimes, {parameters}
  %some = icmp sgt i64 %end, 0
  br i1 %some, label %loop, label %done
loop:
  %i = phi i64 [0, %entry], [%i.next, %loop]
  %c = sdiv i64 %i, {max(parameters, 1)}
  %j = srem i64 %i, {max(parameters, 1)}
  %c.one = insertelement {I} poison, i64 %c, i32 0
  %c.all = shufflevector {I} %c.one, {I} poison, <{LANES} x i32> zeroinitializer
  %mask = icmp eq {I} %regime, %c.all
  %theirs.p = getelementptr {V}, ptr %all, i64 %i
  %theirs = load {V}, ptr %theirs.p, align 8
  %mine.p = getelementptr {V}, ptr %current, i64 %j
  %mine = load {V}, ptr %mine.p, align 8
  {inner}
  %i.next = add i64 %i, 1
  %more = icmp slt i64 %i.next, %end
  br i1 %more, label %loop, label %done
done:
  {after}
  ret void
}}
"""


def _when(bit: int, name: str, body: Sequence[str]) -> str:
    """`body` where the row's flags have the bit."""
    inner = "\n  ".join(body)
    return f"""  %{name}.bit = and i64 %flags, {bit}
  %{name}.on = icmp ne i64 %{name}.bit, 0
  br i1 %{name}.on, label %{name}.do, label %{name}.end
{name}.do:
  {inner}
  br label %{name}.end
{name}.end:"""


def _row_text(sizes: dict[str, int]) -> str:
    """%row, %kept and %flags of row %k of a course."""
    return f"""  %row.o = mul i64 %k, {sizes["R"]}
  %row = getelementptr {V}, ptr %grid, i64 %row.o
  %kept.o = mul i64 %k, {sizes["N"]}
  %kept = getelementptr {V}, ptr %scratch, i64 %kept.o
  %flags.p = getelementptr {V}, ptr %row, i64 {ROW.index("flags")}
  %flags.f = load double, ptr %flags.p, align 8
  %flags = fptosi double %flags.f to i64
  %idle = icmp eq i64 %flags, 0"""


def _group_text(sizes: dict[str, int], kept: tuple[str, str]) -> str:
    """Where what belongs to %group begins; `kept`: how many rows of each table the scratch has room for."""
    parts = [("observed", "observations", f"{sizes['O']}", "%visits"), ("initial", "initials", f"{sizes['N']}", "1"),
             ("all", "parameters", f"{sizes['M']}", "%regimes"), ("grid.1", "grid", f"{sizes['R']}", "%rows"),
             ("grid.2", "dense", f"{sizes['R']}", "%dense.rows"), ("scratch.1", "scratch", f"{sizes['N']}", kept[0]),
             ("scratch.2", "scratch.dense", f"{sizes['N']}", kept[1]), ("used", "useds", "1", "1")]
    lines = []
    for name, array, each, count in parts:
        lines += [f"%{name}.each = mul i64 {count}, {each}", f"%{name}.o = mul i64 %{name}.each, %group",
                  f"%{name} = getelementptr {V}, ptr %{array}, i64 %{name}.o"]
    return "\n".join(f"  {line}" for line in lines)


def _forward_text(sizes: dict[str, int]) -> str:
    """A group goes through its first table of steps, and where a step is poor, again through the denser one.

    States are kept for the adjoint if the scratch has a place for every row, and else not at all.
    """
    state, size = "%state", sizes["N"] * BYTES
    at = {"state": state, "parameter": "%current", "row": "%row"}
    return f"""
define internal void @course(ptr %all, ptr %initial, ptr %grid, ptr %tolerance, ptr %observed, ptr %worst, ptr %errors,
                             ptr %scratch, i64 %rows, i64 %regimes, i64 %kept.rows) noinline {{
entry:
  %keeps = icmp eq i64 %kept.rows, %rows
  %state = alloca [{sizes["N"]} x {V}], align {BYTES}
  %current = alloca [{max(sizes["M"], 1)} x {V}], align {BYTES}
  %error = alloca {V}, align {BYTES}
  store {V} zeroinitializer, ptr %error, align 8
  store {V} zeroinitializer, ptr %worst, align 8
  call void @llvm.memcpy.p0.p0.i64(ptr %state, ptr %initial, i64 {size}, i1 false)
  br label %row.test
row.test:
  %k = phi i64 [0, %entry], [%k.next, %row.next]
  %row.more = icmp slt i64 %k, %rows
  br i1 %row.more, label %row.do, label %end
row.do:
{_row_text(sizes)}
  br i1 %idle, label %row.next, label %row.act
row.act:
  br i1 %keeps, label %keep.state, label %go
keep.state:
  call void @llvm.memcpy.p0.p0.i64(ptr %kept, ptr %state, i64 {size}, i1 false)
  br label %go
go:
{_when(REGIME, "regime", ["call void @load(ptr %all, ptr %current, ptr %row, i64 %regimes)"])}
{_when(VISIT, "visit", [_call("observe", observed="%observed", **at)])}
{_when(JUMP, "jump", [_call("jump", **at)])}
{_when(STEP, "step", [
    _call("step", tolerance="%tolerance", error="%error", **at),
    f"%now = load {V}, ptr %error, align 8", f"%before = load {V}, ptr %worst, align 8",
    f"%after = call {V} @llvm.maximum.v{LANES}f64({V} %before, {V} %now)", f"store {V} %after, ptr %worst, align 8",
    "%kept.errors = icmp ne ptr %errors, null", "br i1 %kept.errors, label %keep, label %step.end", "keep:",
    f"%errors.p = getelementptr {V}, ptr %errors, i64 %k", f"store {V} %now, ptr %errors.p, align 8"])}
  br label %row.next
row.next:
  %k.next = add i64 %k, 1
  br label %row.test
end:
  ret void
}}

define void @forward(ptr %parameters, ptr %initials, ptr %grid, ptr %dense, ptr %tolerance, ptr %poor,
                     ptr %observations, ptr %worsts, ptr %useds, ptr %scratch, ptr %scratch.dense,
                     i64 %groups, i64 %rows, i64 %regimes, i64 %visits, i64 %dense.rows, i64 %kept.rows,
                     i64 %dense.kept, ptr %errors) {{
entry:
  br label %group.test
group.test:
  %group = phi i64 [0, %entry], [%group.next, %group.end]
  %group.more = icmp slt i64 %group, %groups
  br i1 %group.more, label %group.do, label %end
group.do:
{_group_text(sizes, ("%kept.rows", "%dense.kept"))}
  %worst = getelementptr {V}, ptr %worsts, i64 %group
  %errors.row = mul i64 %rows, %group
  %errors.at = getelementptr {V}, ptr %errors, i64 %errors.row
  %none = icmp eq ptr %errors, null
  %errors.1 = select i1 %none, ptr null, ptr %errors.at
  call void @course(ptr %all, ptr %initial, ptr %grid.1, ptr %tolerance, ptr %observed, ptr %worst, ptr %errors.1,
                    ptr %scratch.1, i64 %rows, i64 %regimes, i64 %kept.rows)
  store {V} zeroinitializer, ptr %used, align 8
  %limit = load {V}, ptr %poor, align 8
  %found = load {V}, ptr %worst, align 8
  %bad.lanes = fcmp uge {V} %found, %limit
  %bad = bitcast <{LANES} x i1> %bad.lanes to i{LANES}
  %any = icmp ne i{LANES} %bad, 0
  %have = icmp sgt i64 %dense.rows, 0
  %again = and i1 %any, %have
  br i1 %again, label %group.again, label %group.end
group.again:
  call void @course(ptr %all, ptr %initial, ptr %grid.2, ptr %tolerance, ptr %observed, ptr %worst, ptr null,
                    ptr %scratch.2, i64 %dense.rows, i64 %regimes, i64 %dense.kept)
  store {V} {splat(1.0)}, ptr %used, align 8
  br label %group.end
group.end:
  %group.next = add i64 %group, 1
  br label %group.test
end:
  ret void
}}
"""


def _backward_text(sizes: dict[str, int]) -> str:
    size = sizes["N"] * BYTES
    at = {"parameter": "%current", "row": "%row", "state_cotangent": "%initial", "parameter_cotangent": "%sum"}
    return f"""
define internal void @back(ptr %theirs, ptr %all, ptr %initial, ptr %grid, ptr %observed, ptr %scratch, i64 %rows,
                           i64 %regimes) noinline {{
entry:
  %state = alloca [{sizes["N"]} x {V}], align {BYTES}
  %current = alloca [{max(sizes["M"], 1)} x {V}], align {BYTES}
  %sum = alloca [{max(sizes["M"], 1)} x {V}], align {BYTES}
  call void @llvm.memset.p0.i64(ptr %sum, i8 0, i64 {sizes["M"] * BYTES}, i1 false)
  br label %row.test
row.test:
  %left = phi i64 [%rows, %entry], [%k, %row.back]
  %row.more = icmp sgt i64 %left, 0
  br i1 %row.more, label %row.do, label %end
row.do:
  %k = sub i64 %left, 1
{_row_text(sizes)}
  br i1 %idle, label %row.back, label %row.act
row.act:
{_when(REGIME_BACK, "back", ["call void @load(ptr %theirs, ptr %current, ptr %row, i64 %regimes)"])}
  call void @llvm.memcpy.p0.p0.i64(ptr %state, ptr %kept, i64 {size}, i1 false)
{_when(JUMP, "again", [_call("jump", state="%state", parameter="%current", row="%row")])}
{_when(STEP, "step", [_call("step_adjoint", state="%state", **at)])}
{_when(JUMP, "jump", [_call("jump_adjoint", state="%kept", **at)])}
{_when(VISIT, "visit", [_call("observe_adjoint", state="%kept", observed_cotangent="%observed", **at)])}
{_when(REGIME, "regime", ["call void @flush(ptr %all, ptr %sum, ptr %row, i64 %regimes)"])}
  br label %row.back
row.back:
  br label %row.test
end:
  ret void
}}

define void @backward(ptr %values, ptr %grid, ptr %dense, ptr %scratch, ptr %scratch.dense, ptr %useds,
                      ptr %observations, ptr %parameters, ptr %initials,
                      i64 %groups, i64 %rows, i64 %regimes, i64 %visits, i64 %dense.rows) {{
entry:
  br label %group.test
group.test:
  %group = phi i64 [0, %entry], [%group.next, %group.end]
  %group.more = icmp slt i64 %group, %groups
  br i1 %group.more, label %group.do, label %end
group.do:
{_group_text(sizes, ("%rows", "%dense.rows"))}
  %theirs = getelementptr {V}, ptr %values, i64 %all.o
  %all.bytes = mul i64 %all.each, {BYTES}
  call void @llvm.memset.p0.i64(ptr %all, i8 0, i64 %all.bytes, i1 false)
  call void @llvm.memset.p0.i64(ptr %initial, i8 0, i64 {size}, i1 false)
  %used.f = load double, ptr %used, align 8
  %second = fcmp ogt double %used.f, 0.0
  %grid.at = select i1 %second, ptr %grid.2, ptr %grid.1
  %scratch.at = select i1 %second, ptr %scratch.2, ptr %scratch.1
  %rows.at = select i1 %second, i64 %dense.rows, i64 %rows
  call void @back(ptr %theirs, ptr %all, ptr %initial, ptr %grid.at, ptr %observed, ptr %scratch.at, i64 %rows.at,
                  i64 %regimes)
  br label %group.end
group.end:
  %group.next = add i64 %group, 1
  br label %group.test
end:
  ret void
}}
"""
