"""What one core can do at most: fused multiply-adds on vectors of eight doubles that stay in registers."""

import ctypes
import time

import llvmlite.binding as llvm

LANES, CHAINS, REPEATS = 8, 12, 2_000_000  # 12 independent chains hide the latency of either unit


def _text() -> str:
    v = f"<{LANES} x double>"
    begin = "\n".join(f"  %a{k} = phi {v} [ splat (double 1.0), %entry ], [ %b{k}, %loop ]" for k in range(CHAINS))
    body = "\n".join(f"  %b{k} = call {v} @llvm.fma.v{LANES}f64({v} %a{k}, {v} %x, {v} %y)" for k in range(CHAINS))
    total = "\n".join(f"  %s{k + 1} = fadd {v} {'%b0' if k == 0 else f'%s{k}'}, %b{k + 1}" for k in range(CHAINS - 1))
    return f"""
declare {v} @llvm.fma.v{LANES}f64({v}, {v}, {v})
define void @spin(i64 %count, ptr %in, ptr %out) {{
entry:
  %x = load {v}, ptr %in, align 8
  %y.p = getelementptr {v}, ptr %in, i64 1
  %y = load {v}, ptr %y.p, align 8
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
{begin}
{body}
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %count
  br i1 %more, label %loop, label %done
done:
{total}
  store {v} %s{CHAINS - 1}, ptr %out, align 8
  ret void
}}
"""


def peak_flops() -> float:
    """Floating-point operations per second of this core, a fused multiply-add counted as two; the best of five."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=2)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(_text()), machine)
    engine.finalize_object()
    spin = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)(engine.get_function_address("spin"))
    numbers, result = (ctypes.c_double * (2 * LANES))(*[0.999] * LANES, *[1e-3] * LANES), (ctypes.c_double * LANES)()
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        spin(REPEATS, ctypes.addressof(numbers), ctypes.addressof(result))
        best = min(best, time.perf_counter() - begin)
    return 2 * LANES * CHAINS * REPEATS / best


if __name__ == "__main__":
    print(f"{peak_flops() / 1e9:.1f} Gflop/s")
