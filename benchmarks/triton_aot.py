"""Compile the Triton solver ahead of time, with no GPU, and print what the assembler says of it.

    python benchmarks/triton_aot.py
    python benchmarks/triton_aot.py --arch 90 --sizes 375x80 1500x400

One row for each architecture and problem size: the tile and warps that `solve_triton` chooses,
registers a thread, bytes spilled to local memory, bytes of shared memory. Exits 1 where one does
not compile.
"""

from __future__ import annotations

import argparse
import inspect
import math
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

os.environ.pop("TRITON_INTERPRET", None)  # compile, whatever the caller's shell says

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from otreg.transport.triton_kernel import block_sizes
from otreg.transport.triton_sweeps import solve_kernel

SIZES = [
    "1x1",
    "63x20",
    "100x20",
    "375x80",
    "375x83",
    "750x200",
    "1500x401",
    "4096x1000",
    "4096x4096",
]
POINTERS = ["cost", "a", "b", "start", "f", "g", "u", "plan", "error"]


@dataclass(frozen=True)
class Usage:
    """What one thread (registers, spilled bytes) and one program (shared bytes) take."""

    registers: int
    spill_stores: int
    spill_loads: int
    shared: int


def compile_kernel(arch: int, n: int, m: int, relaxed: bool = False, bits: int = 32) -> Usage:
    """Compile for problems of n x m, in the variant that `solve_triton` would launch."""
    block_n, block_m, num_warps = block_sizes(n, m, bits // 8)
    log_tiny = -80.0 if bits == 32 else -650.0
    signature = {f"{name}_ptr": f"*fp{bits}" for name in POINTERS}
    signature |= {"num_iters_ptr": "*i64", "n": "i32", "m": "i32", "max_iter": "i32"}
    signature |= dict.fromkeys(("epsilon", "tau_a", "tau_b", "tol"), "fp64")
    constants = {"BALANCED_A": not relaxed, "BALANCED_B": not relaxed}
    constants |= {"BLOCK_N": block_n, "BLOCK_M": block_m}
    constants |= {"LOG_TINY": log_tiny, "TINY": math.exp(log_tiny)}
    signature |= dict.fromkeys(constants, "constexpr")
    names = solve_kernel.arg_names
    # What a launch would know: torch aligns its memory, and rows of 16 elements stay aligned.
    aligned = [name for name in names if name.endswith("_ptr") or (name == "m" and m % 16 == 0)]
    source = ASTSource(
        fn=solve_kernel,
        signature={name: signature[name] for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    compiled = triton.compile(
        source,
        target=GPUTarget("cuda", arch, 32),
        options={"num_warps": num_warps, "enable_fp_fusion": True},
    )
    return _assemble(compiled.asm["ptx"], _ptxas(arch), compiled.metadata.shared)


def _ptxas(arch: int) -> str:
    """The assembler that triton itself would take; 3.4 has one for all."""
    return (get_ptxas(arch) if inspect.signature(get_ptxas).parameters else get_ptxas()).path


def _assemble(ptx: str, ptxas: str, shared: int) -> Usage:
    target = re.search(r"^\.target (sm_\w+)", ptx, re.MULTILINE)
    assert target, "PTX without a target"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        report = subprocess.run(
            [ptxas, "-v", f"-arch={target[1]}", path, "-o", path.with_suffix(".cubin")],
            capture_output=True,
            text=True,
            check=True,
        ).stderr
    patterns = (r"Used (\d+) registers", r"(\d+) bytes spill stores", r"(\d+) bytes spill loads")
    found = [re.search(pattern, report) for pattern in patterns]
    assert all(found), report
    return Usage(*(int(match[1]) for match in found if match), shared)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--arch", type=int, nargs="+", default=[80, 90])
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="NxM")
    parser.add_argument("--relaxed", action="store_true", help="KL-relaxed marginals, both sides")
    parser.add_argument("--float64", action="store_true")
    options = parser.parse_args(arguments)
    bits = 64 if options.float64 else 32
    print(f"triton {triton.__version__}, float{bits}, relaxed {options.relaxed}")
    print("arch   problem    tile      warps  registers  spill stores  spill loads  shared")
    failed = 0
    for arch in options.arch:
        for size in options.sizes:
            n, m = (int(x) for x in size.split("x"))
            block_n, block_m, num_warps = block_sizes(n, m, bits // 8)
            row = f"sm_{arch}  {size:<9}  {f'{block_n}x{block_m}':<8}  {num_warps:>5}  "
            try:
                used = compile_kernel(arch, n, m, options.relaxed, bits)
            except Exception as error:  # of triton's own kinds, which differ between versions
                failed += 1
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                print(f"{row}did not compile: {reason}")
                continue
            print(
                f"{row}{used.registers:>9}  {used.spill_stores:>12}  {used.spill_loads:>11}  "
                f"{used.shared:>6}"
            )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
