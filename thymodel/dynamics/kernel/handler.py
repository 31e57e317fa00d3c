"""The functions that XLA calls, as LLVM IR: they check what they are given and call the kernel. No C compiler.

Source: XLA FFI C API 0.3, `xla/ffi/api/c_api.h` as installed with jaxlib; the offsets are those of its structs.
"""

from collections.abc import Sequence

_F64, _S64 = 12, 5
_EXECUTE = 3  # stage
_INVALID = 3  # XLA_FFI_Error_Code_INVALID_ARGUMENT

_VALUES = ("regimes-parameters", ("G", "C", "M", "L"))
_TABLES = (("grid", ("G", "S", "R", "L")), ("dense grid", ("G", "D", "R", "L")))
_KEPT = (("scratch", ("G", "S", "N", "L")), ("dense scratch", ("G", "D", "N", "L")))
_ROOM = (("scratch", ("G", "K", "N", "L")), ("dense scratch", ("G", "E", "N", "L")))  # as many rows, or none
_USED = ("used", ("G", "L"))
FORWARD = (_VALUES, ("initial states", ("G", "N", "L")), *_TABLES, ("tolerance", ("N+1", "L")), ("poor", ("L",)),
           ("observed", ("G", "V", "O", "L")), ("worst", ("G", "L")), _USED, *_ROOM)
BACKWARD = (_VALUES, *_TABLES, *_KEPT, _USED, ("observed cotangent", ("G", "V", "O", "L")),
            ("parameter cotangent", ("G", "C", "M", "L")), ("initial cotangent", ("G", "N", "L")))


def handlers_text(sizes: dict[str, int], suffix: str) -> str:
    """Both handlers. `sizes` are the fixed dimensions; the others are read from the buffers and must agree."""
    fixed = sizes | {"N+1": sizes["N"] + 1}
    return (_message(suffix)
            + _handler(f"forward_{suffix}", "forward", FORWARD, 6, fixed, suffix, ("G", "S", "C", "V", "D", "K", "E"),
                       extra=("ptr null",))
            + _handler(f"backward_{suffix}", "backward", BACKWARD, 7, fixed, suffix))


def counter_text(suffix: str) -> str:
    """A handler that adds a number to the cell whose address it is given, and returns 0 (see `counter`)."""
    buffers = (("increment", ("1",)), ("address", ("1",), _S64), ("nothing", ("1",)))
    act = """
define internal void @add(ptr %increment, ptr %address, ptr %nothing) {
  %by = load double, ptr %increment, align 8
  %whole = fptosi double %by to i64
  %cell = load ptr, ptr %address, align 8
  %before = atomicrmw add ptr %cell, i64 %whole monotonic
  store double 0.0, ptr %nothing, align 8
  ret void
}
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
"""
    return act + _message(suffix) + _handler(f"handle_{suffix}", "add", buffers, 2, {"1": 1}, suffix, free=())


def _message(suffix: str) -> str:
    text = "thymodel kernel: buffers of the wrong type or shape"
    return f'@message_{suffix} = private constant [{len(text) + 1} x i8] c"{text}\\00"\n'


def _field(name: str, base: str, offset: int, kind: str) -> list[str]:
    return [f"%{name}.at = getelementptr i8, ptr %{base}, i64 {offset}",
            f"%{name} = load {kind}, ptr %{name}.at, align 4"]


def _handler(name: str, target: str, buffers: Sequence, args: int, fixed: dict[str, int], suffix: str,
             free: Sequence[str] = ("G", "S", "C", "V", "D"), extra: Sequence[str] = ()) -> str:
    lines = [f"define ptr @{name}(ptr %frame) {{", "entry:", *_field("extension", "frame", 8, "ptr"),
             "%has = icmp ne ptr %extension, null", "br i1 %has, label %extended, label %run", *_metadata(), "run:",
             *_field("stage", "frame", 32, "i32"), *_field("args", "frame", 56, "i64"),
             *_field("rets", "frame", 96, "i64"),
             f"%ok.stage = icmp eq i32 %stage, {_EXECUTE}", f"%ok.args = icmp eq i64 %args, {args}",
             f"%ok.rets = icmp eq i64 %rets, {len(buffers) - args}", "%ok.counts = and i1 %ok.args, %ok.rets",
             "%ok.both = and i1 %ok.counts, %ok.stage", "br i1 %ok.both, label %check0, label %refuse"]
    bound: dict[str, str] = {}
    for k, (_, dims, *kind) in enumerate(buffers):
        lines += _check(k, k if k < args else k - args, "72" if k < args else "112", dims, fixed, bound,
                        *(kind or [_F64]))
    given = ", ".join([*(f"ptr %data{k}" for k in range(len(buffers))), *(f"i64 {bound[d]}" for d in free), *extra])
    lines += [f"check{len(buffers)}:", f"call void @{target}({given})", "ret ptr null", *_refusal(suffix), "}"]
    return "\n".join(lines) + "\n"


def _metadata() -> list[str]:
    return ["extended:", *_field("type", "extension", 8, "i32"), "%asks = icmp eq i32 %type, 1",
            "br i1 %asks, label %metadata, label %run", "metadata:", *_field("meta", "extension", 24, "ptr"),
            *_field("meta.size", "meta", 0, "i64"),
            "%version.size = getelementptr i8, ptr %meta, i64 8", "store i64 24, ptr %version.size, align 4",
            "%major = getelementptr i8, ptr %meta, i64 24", "store i32 0, ptr %major, align 4",
            "%minor = getelementptr i8, ptr %meta, i64 28", "store i32 3, ptr %minor, align 4",
            "%traits = getelementptr i8, ptr %meta, i64 32", "store i32 0, ptr %traits, align 4",
            "%stateful = icmp uge i64 %meta.size, 48", "br i1 %stateful, label %typed, label %known", "typed:",
            "%type.id = getelementptr i8, ptr %meta, i64 40", "store i64 0, ptr %type.id, align 4",
            "br label %known", "known:", "ret ptr null"]


def _check(k: int, place: int, pointers: str, dims: Sequence[str], fixed: dict[str, int], bound: dict[str, str],
           kind: int) -> list[str]:
    """Type and rank of buffer k, then its dimensions: the first sight of a free one binds it."""
    b = f"b{k}"
    lines = [f"check{k}:", *_field(f"{b}.all", "frame", int(pointers), "ptr"), *_field(b, f"{b}.all", 8 * place, "ptr"),
             *_field(f"{b}.type", b, 16, "i32"), *_field(f"data{k}", b, 24, "ptr"), *_field(f"{b}.rank", b, 32, "i64"),
             f"%{b}.kind = icmp eq i32 %{b}.type, {kind}", f"%{b}.deep = icmp eq i64 %{b}.rank, {len(dims)}",
             f"%{b}.right = and i1 %{b}.kind, %{b}.deep", f"br i1 %{b}.right, label %shape{k}, label %refuse",
             f"shape{k}:", *_field(f"{b}.dims", b, 40, "ptr")]
    truth = "true"
    for j, dim in enumerate(dims):
        lines += _field(f"{b}.d{j}", f"{b}.dims", 8 * j, "i64")
        expected = str(fixed[dim]) if dim in fixed else bound.setdefault(dim, f"%{b}.d{j}")
        lines += [f"%{b}.e{j} = icmp eq i64 %{b}.d{j}, {expected}", f"%{b}.t{j} = and i1 {truth}, %{b}.e{j}"]
        truth = f"%{b}.t{j}"
    return [*lines, f"br i1 {truth}, label %check{k + 1}, label %refuse"]


def _refusal(suffix: str) -> list[str]:
    return ["refuse:", *_field("api", "frame", 16, "ptr"), *_field("create", "api", 48, "ptr"),
            "%error = alloca [32 x i8], align 8", "call void @llvm.memset.p0.i64(ptr %error, i8 0, i64 32, i1 false)",
            "store i64 28, ptr %error, align 8", "%error.message = getelementptr i8, ptr %error, i64 16",
            f"store ptr @message_{suffix}, ptr %error.message, align 8",
            "%error.code = getelementptr i8, ptr %error, i64 24", f"store i32 {_INVALID}, ptr %error.code, align 4",
            "%made = call ptr %create(ptr %error)", "ret ptr %made"]
