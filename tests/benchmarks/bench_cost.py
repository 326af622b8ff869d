"""What ten systems of the zoo cost on this machine, at the same number of parameters: the table behind the pictures.

Run as `python tests/benchmarks/bench_cost.py [NAMES] --lengths 128 512 2048 --width 64`. One row a system and length;
`--all` prints every value with its unit, device and method instead. Decoding is one token after `length` - 1 others.
Memory is the peak of prefill and of a training step. Roofline times are those of an H100. Nothing is gated here.
"""

from __future__ import annotations

import argparse

import torch

from archloom.evaluator.cost import CostValue, cost_table
from archloom.search_space import zoo
from archloom.search_space.costs import solve_widths, target_parameters

NAMES = (
    "mha",
    "gqa",
    "sliding_window",
    "linear_attention",
    "retnet",
    "gla",
    "mamba2",
    "gated_deltanet",
    "kda",
    "long_conv",
)
COLUMNS = {
    "parameters": ("parameters", 1.0),
    "MFLOP": ("flops_analytic", 1e-6),
    "counted": ("flops_matrix", 1e-6),
    "FFT": ("flops_transform", 1e-6),
    "element": ("flops_elementwise", 1e-6),
    "state kB": ("state_bytes_measured", 1e-3),
    "prefill ms": ("prefill_seconds", 1e3),
    "decode ms": ("decode_seconds", 1e3),
    "peak MB": ("peak_bytes_prefill", 1e-6),
    "train MB": ("peak_bytes_training", 1e-6),
    "J": ("prefill_joules", 1.0),
    "roof us": ("roofline_prefill_seconds", 1e6),
    "step us": ("roofline_decode_seconds", 1e6),
    "2PC MB": ("private_inference_bytes", 1e-6),
    "zeros": ("kernel_zeros", 1.0),
}


def row(values: tuple[CostValue, ...], length: int) -> str:
    """The columns of one length; `-` where a number is absent."""
    found = {each.name: each.value for each in values if each.length in (None, length) and each.device != "laptop_cpu"}
    found |= {each.name: each.value for each in values if each.length == length and each.device == "h100"}
    cells = [f"{found[name] * scale:.4g}" if name in found else "-" for name, scale in COLUMNS.values()]
    return "".join(f"{cell:>11s}" for cell in cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES, help="zoo entries")
    parser.add_argument("--lengths", nargs="+", type=int, default=[128, 512, 2048])
    parser.add_argument("--width", type=int, default=64, help="D of the reference whose parameters all match")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=0.3, help="for each timing")
    parser.add_argument("--all", action="store_true", help="every value, one a line")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    longest = max(arguments.lengths)
    target = target_parameters(zoo.load("mha"), width=arguments.width, length=longest)
    print(f"{'system':18s}{'tokens':>7s}" + "".join(f"{name:>11s}" for name in COLUMNS))
    for name in arguments.names:
        architecture = zoo.load(name)
        values = cost_table(
            architecture,
            widths=solve_widths(architecture, target=target, width=arguments.width, length=longest, tolerance=0.02),
            lengths=arguments.lengths,
            batch=arguments.batch,
            device=arguments.device,
            seconds=arguments.seconds,
        )
        for length in arguments.lengths:
            print(f"{name:18s}{length:7d}{row(values, length)}", flush=True)
        for each in values if arguments.all else ():
            length_said = "" if each.length is None else str(each.length)
            print(f"  {each.name:28s}{length_said:>6s} {each.value:14.6g} {each.unit} ({each.device}; {each.method})")


if __name__ == "__main__":
    main()
