"""The launches of the attention kernels that are compiled ahead as a check: each kernel, plain and with every switch,
in the types and widths that ask most of registers and shared memory."""

import torch

from archloom.kernels.attention.blocks import Kernel, blocks_in
from archloom.kernels.attention.launch import switches
from archloom.kernels.attention.positions import PositionalMask
from archloom.kernels.attention.rule import Normaliser, Rule
from archloom.kernels.attention.triton_backward import backward_keys, backward_queries
from archloom.kernels.attention.triton_decode import SPLIT_BLOCK, decode_combine, decode_split
from archloom.kernels.attention.triton_forward import forward
from archloom.kernels.attention.triton_lags import backward_lags
from archloom.kernels.compiled import Specialisation

KERNELS = {"forward": forward, "queries": backward_queries, "keys": backward_keys, "lags": backward_lags}
ELEMENTS = ("q", "k", "v", "out", "d_out", "d_q", "d_k", "d_v")
OTHERS = {
    "log_sum": "*fp32",
    "delta": "*fp32",
    "d_row": "*fp32",
    "d_column": "*fp32",
    "d_tile": "*fp32",
    "part": "*fp32",
    "decay": "*fp32",
    "table": "*fp32",
    "mask": "*u8",
    "listed": "*i32",
    "counts": "*i32",
    "scale": "fp32",
    "cap": "fp32",
    "d_scale": "fp32",
    "stride_k": "i64",
    "stride_v": "i64",
}
INTEGERS = (
    *("steps", "sources", "heads", "groups", "entries", "first_diagonal", "diagonals"),
    *("oldest", "length", "splits"),
)

PLAIN = Rule(scale=1.0)
EVERYTHING = Rule(scale=1.0, positions=PositionalMask(window=512, first=4), soft_cap=50.0)


def types(dtype: torch.dtype, names: list[str]) -> dict[str, str]:
    element = {torch.float32: "*fp32", torch.bfloat16: "*bf16"}[dtype]
    every = {**dict.fromkeys(ELEMENTS, element), **OTHERS, **dict.fromkeys(INTEGERS, "i32")}
    return {name: every[name] for name in names if name in every}


def specialisation(
    kernel: Kernel, dtype: torch.dtype, width: int, rule: Rule, *, sides: bool = False, masked: bool = False
) -> Specialisation:
    blocks = blocks_in(kernel, "large", dtype, width)
    function = KERNELS[kernel]
    constants = switches(rule, width, width, decayed=sides, biased=sides, masked=masked)
    sizes = {"M": blocks.queries, "N": blocks.keys}
    return Specialisation(
        kernel=function,
        types=types(dtype, function.arg_names),
        constants={**constants, **{name: size for name, size in sizes.items() if name in function.arg_names}},
        warps=blocks.warps,
        stages=blocks.stages,
    )


def entrywise(normaliser: Normaliser) -> Rule:
    return Rule(scale=1.0, normaliser=normaliser)


def decoding(dtype: torch.dtype, width: int) -> Specialisation:
    blocks = blocks_in("decode", "large", dtype, width)
    sizes = {"K": width, "V": width, "BLOCK_K": width, "BLOCK_V": width, "M": blocks.queries, "N": blocks.keys}
    return Specialisation(
        kernel=decode_split,
        types=types(dtype, decode_split.arg_names),
        constants={**sizes, "WINDOW": 4096, "CAPPED": True, "DECAYED": True},
        warps=blocks.warps,
        stages=blocks.stages,
    )


LOW, FULL = torch.bfloat16, torch.float32
SPECIALISATIONS = (
    specialisation("forward", LOW, 128, PLAIN),
    specialisation("queries", LOW, 128, PLAIN),
    specialisation("keys", LOW, 128, PLAIN),
    specialisation("forward", LOW, 256, EVERYTHING, sides=True),
    specialisation("queries", LOW, 256, EVERYTHING, sides=True),
    specialisation("keys", LOW, 256, EVERYTHING, sides=True),
    specialisation("lags", LOW, 256, EVERYTHING, sides=True),
    specialisation("keys", LOW, 64, Rule(scale=1.0, causal=False), masked=True),
    specialisation("forward", FULL, 64, entrywise("sigmoid"), sides=True),
    specialisation("queries", FULL, 64, entrywise("relu2"), sides=True),
    specialisation("keys", FULL, 64, entrywise("relu2"), sides=True),
    decoding(LOW, 128),
    decoding(FULL, 256),
    Specialisation(
        kernel=decode_combine,
        types=types(LOW, decode_combine.arg_names),
        constants={"V": 256, "BLOCK_V": 256, "N": SPLIT_BLOCK, "NORMALISER": 1},
        stages=1,
    ),
)
