"""Errors of every backend that runs here against float64, over lengths and decays, outputs and gradients.

Run as `python tests/benchmarks/bench_numerics.py`. Each figure is relative: the root mean square of the error over that
of the reference, and in brackets the largest error over the largest entry. Of several gradients the worst is shown.
`kernel_numerics` says what the reference is. A `!` marks what is beyond the bound or not finite. On one CPU thread all
lengths up to 8192 take ten minutes; 65536 takes as long again, nearly all of it attention with a decay.
"""

import argparse

import torch
from kernel_numerics import LENGTHS, PRIMITIVES, Case, Error, cases, errors, has_triton

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("primitives", nargs="*", help=f"all if none is named: {', '.join(PRIMITIVES)}")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS[:3], help="default: %(default)s")
    parser.add_argument("--types", nargs="+", choices=TYPES, default=list(TYPES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {arguments.device}")
    print(f"{'primitive':17s} {'T':>5s}  {'decays or keys':26s} {'inputs':9s} {'backend':8s} outputs, gradients, state")
    for primitive in arguments.primitives or PRIMITIVES:
        triton = arguments.device == "cuda" and has_triton(primitive)
        backends = ("chunked", "triton") if triton else ("chunked",)
        for steps in arguments.lengths:
            torch.manual_seed(0)
            for case in cases(steps, primitive):
                for name in arguments.types:
                    found = errors(case, TYPES[name], backends=backends, device=arguments.device)
                    for backend, each in found.items():
                        print(row(case, name, backend, each), flush=True)


def row(case: Case, dtype: str, backend: str, found: list[Error]) -> str:
    most_rms, most_largest = case.bound(TYPES[dtype])
    worst = {
        kind: max((each for each in found if each.result.startswith(kind)), key=lambda each: each.rms, default=None)
        for kind in ("output", "d ", "state")
    }
    shown = "".join(
        f"  {each.result} {each.rms:.0e} ({each.largest:.0e})" for each in worst.values() if each is not None
    )
    held = all(each.finite and each.rms <= most_rms and each.largest <= most_largest for each in found)
    mark = "" if held else "  !"
    return f"{case.primitive:17s} {case.steps:5d}  {case.variant:26s} {dtype:9s} {backend:8s}{shown}{mark}"


if __name__ == "__main__":
    main()
