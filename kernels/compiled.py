"""Every Triton kernel compiled ahead of time for a GPU that need not be there: `python -m archloom.kernels.compiled`.

The `triton.py` of each primitive lists its kernels in SPECIALISATIONS, in types and constants as its launches use them.
Compiling proves that Triton accepts a kernel for that GPU and that its registers and shared memory suffice, not that
its results are right.
"""

import argparse
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from time import perf_counter
from typing import Any

from archloom.kernels.table import with_triton

SHARED_MEMORY = {80: 166_912, 90: 232_448, 100: 232_448}
"""Bytes of shared memory that a block may use, by compute capability."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Specialisation:
    """One way a kernel is launched: argument types as Triton writes them (`*bf16`, `i32`, `fp32`), and constants."""

    kernel: Any
    types: Mapping[str, str]
    constants: Mapping[str, object] = field(default_factory=dict)
    warps: int = 4
    stages: int = 2


def specialisations(package: str) -> tuple[Specialisation, ...]:
    found: tuple[Specialisation, ...] = import_module(f"{package}.triton").SPECIALISATIONS
    return found


def compile_for(each: Specialisation, capability: int) -> int:
    """Compile one specialisation; the bytes of shared memory that it uses. Errors are those of Triton's compiler.

    Pointers are taken to be aligned, as those of launches are: only then are loads pipelined through shared memory.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = each.kernel.arg_names
    signature = {name: each.types.get(name, "constexpr") for name in names}
    aligned = {(place,): [["tt.divisibility", 16]] for place, name in enumerate(names) if signature[name][0] == "*"}
    source = ASTSource(fn=each.kernel, signature=signature, constexprs=dict(each.constants), attrs=aligned)
    made = triton.compile(
        source,
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": each.warps, "num_stages": each.stages},
    )
    shared: int = made.metadata.shared
    return shared


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [each.rpartition(".")[2] for each in with_triton()]
    parser.add_argument("primitives", nargs="*", help=f"of {', '.join(known)}; all of them if none is named")
    parser.add_argument("--capability", type=int, default=90, help="compute capability, 90 for Hopper")
    arguments = parser.parse_args()
    if unknown := set(arguments.primitives) - set(known):
        parser.error(f"no Triton kernels of {', '.join(sorted(unknown))}; known are {', '.join(known)}")
    if find_spec("triton") is None:
        print('Triton is not installed; pip install "archloom[gpu]"', file=sys.stderr)
        return 7
    os.environ.pop("TRITON_INTERPRET", None)  # what is interpreted cannot be compiled
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    most = SHARED_MEMORY.get(arguments.capability, max(SHARED_MEMORY.values()))
    failed = 0
    for package in with_triton():
        primitive = package.rpartition(".")[2]
        wanted = not arguments.primitives or primitive in arguments.primitives
        for each in specialisations(package) if wanted else ():
            start = perf_counter()
            shown = " ".join(f"{name}={value}" for name, value in each.constants.items())
            shared = compile_for(each, arguments.capability)
            failed += shared > most
            verdict = "" if shared <= most else f"  needs more than {most:,d}"
            name = f"{primitive:20s} {each.kernel.__name__:36s}"
            print(f"{name} {perf_counter() - start:6.1f} s {shared:9,d} B  {shown}{verdict}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
