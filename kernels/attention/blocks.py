"""Sizes of tiles for the Triton kernels of attention, by the shared memory of the device, the type and the head width.

Plain tables: every launch of one kind on one device is the same, from the first call on. They are chosen so that every
kernel fits and hardly spills registers where it is compiled for capabilities 9.0 (large) and 8.6 (small).
"""

from dataclasses import dataclass
from typing import Literal

import torch

from archloom.kernels.backends import interprets

Kernel = Literal["forward", "queries", "keys", "lags", "decode"]
Room = Literal["large", "small"]

ROOMS: dict[int, Room] = {80: "large", 90: "large", 100: "large", 103: "large"}
"""Compute capabilities whose blocks may use 160 KiB of shared memory or more; others have 99 KiB."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """Queries and keys of a tile, warps of a program, stages of its pipeline.

    When decoding, `queries` are the most: those of all heads of a group."""

    queries: int
    keys: int
    warps: int
    stages: int


INTERPRETED = Blocks(32, 32, 4, 1)

TABLE: dict[tuple[Kernel, Room, int, int], Blocks] = {
    # kernel, room, bytes of an element, widest head
    ("forward", "large", 2, 64): Blocks(128, 64, 8, 3),
    ("forward", "large", 2, 128): Blocks(128, 64, 8, 3),
    ("forward", "large", 2, 256): Blocks(128, 32, 8, 2),
    ("forward", "large", 4, 64): Blocks(64, 16, 8, 2),
    ("forward", "large", 4, 128): Blocks(32, 32, 8, 1),
    ("forward", "large", 4, 256): Blocks(32, 16, 8, 1),
    ("queries", "large", 2, 64): Blocks(128, 64, 8, 2),
    ("queries", "large", 2, 128): Blocks(128, 64, 8, 2),
    ("queries", "large", 2, 256): Blocks(64, 32, 8, 2),
    ("queries", "large", 4, 64): Blocks(32, 32, 8, 1),
    ("queries", "large", 4, 128): Blocks(16, 32, 8, 1),
    ("queries", "large", 4, 256): Blocks(16, 16, 8, 1),
    ("keys", "large", 2, 64): Blocks(32, 128, 8, 2),
    ("keys", "large", 2, 128): Blocks(32, 128, 8, 2),
    ("keys", "large", 2, 256): Blocks(32, 64, 8, 2),
    ("keys", "large", 4, 64): Blocks(32, 64, 8, 1),
    ("keys", "large", 4, 128): Blocks(32, 32, 8, 1),
    ("keys", "large", 4, 256): Blocks(16, 16, 8, 1),
    ("decode", "large", 2, 64): Blocks(64, 64, 4, 2),
    ("decode", "large", 2, 128): Blocks(32, 64, 4, 3),
    ("decode", "large", 2, 256): Blocks(32, 64, 8, 2),
    ("decode", "large", 4, 64): Blocks(32, 32, 4, 2),
    ("decode", "large", 4, 128): Blocks(32, 32, 8, 1),
    ("decode", "large", 4, 256): Blocks(16, 16, 4, 2),
    ("forward", "small", 2, 64): Blocks(64, 64, 4, 2),
    ("forward", "small", 2, 128): Blocks(64, 64, 4, 2),
    ("forward", "small", 2, 256): Blocks(64, 32, 8, 1),
    ("forward", "small", 4, 64): Blocks(64, 16, 8, 1),
    ("forward", "small", 4, 128): Blocks(32, 32, 8, 1),
    ("forward", "small", 4, 256): Blocks(32, 16, 8, 1),
    ("queries", "small", 2, 64): Blocks(64, 64, 4, 2),
    ("queries", "small", 2, 128): Blocks(64, 32, 8, 1),
    ("queries", "small", 2, 256): Blocks(32, 32, 8, 1),
    ("queries", "small", 4, 64): Blocks(32, 32, 8, 1),
    ("queries", "small", 4, 128): Blocks(16, 32, 8, 1),
    ("queries", "small", 4, 256): Blocks(16, 16, 8, 1),
    ("keys", "small", 2, 64): Blocks(32, 64, 4, 2),
    ("keys", "small", 2, 128): Blocks(32, 64, 8, 1),
    ("keys", "small", 2, 256): Blocks(32, 32, 8, 1),
    ("keys", "small", 4, 64): Blocks(32, 32, 8, 1),
    ("keys", "small", 4, 128): Blocks(32, 32, 8, 1),
    ("keys", "small", 4, 256): Blocks(16, 16, 8, 1),
    ("decode", "small", 2, 64): Blocks(32, 64, 4, 2),
    ("decode", "small", 2, 128): Blocks(32, 64, 4, 2),
    ("decode", "small", 2, 256): Blocks(16, 32, 4, 2),
    ("decode", "small", 4, 64): Blocks(32, 32, 4, 2),
    ("decode", "small", 4, 128): Blocks(32, 32, 8, 1),
    ("decode", "small", 4, 256): Blocks(16, 16, 4, 1),
}

LAGS: dict[tuple[Room, int], Blocks] = {
    # bytes of an element, any width; tiles are square and of one size, which the caller's memory depends on
    ("large", 2): Blocks(64, 64, 8, 1),
    ("large", 4): Blocks(32, 32, 8, 1),
    ("small", 2): Blocks(32, 32, 8, 1),
    ("small", 4): Blocks(16, 16, 8, 1),
}


def padded(width: int) -> int:
    """The power of two that holds a head of this width, at least 16: what `tl.dot` takes."""
    return max(16, 1 << (width - 1).bit_length())


def room(device: torch.device) -> Room:
    major, minor = torch.cuda.get_device_capability(device)
    return ROOMS.get(10 * major + minor, "small")


def blocks_in(kernel: Kernel, space: Room, dtype: torch.dtype, width: int) -> Blocks:
    if kernel == "lags":
        return LAGS[space, dtype.itemsize]
    return TABLE[kernel, space, dtype.itemsize, max(64, padded(width))]


def blocks_for(kernel: Kernel, tensor: torch.Tensor, width: int) -> Blocks:
    """Sizes for heads, the wider side of which is `width`, on the device of a tensor of their type."""
    if not tensor.is_cuda and interprets():
        return INTERPRETED
    return blocks_in(kernel, room(tensor.device), tensor.dtype, width)
