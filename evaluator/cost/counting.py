"""FLOPs that are counted while a model runs: beside the analytic ones, which are those of the term.

matrix        products and convolutions, two for a multiply-add, as `FlopCounterMode` counts them; fused attention
              is run as products, with the half of the scores that a causal mask hides
transform     5 N log2 N for a complex Fourier transform of N numbers, half of it for a real one
elementwise   one for each result of an operation on single elements, whatever the operation
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

aten = torch.ops.aten
MOVES = frozenset(("clone", "copy", "_to_copy", "fill", "zeros_like", "ones_like", "empty_like", "full_like"))
"""Operations that PyTorch lists as elementwise and that compute nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """FLOPs by kind."""

    matrix: int
    transform: int
    elementwise: int


def count_flops(run: Callable[[], object]) -> Counted:
    """FLOPs of one call of `run` without gradients."""
    elementwise = _Elementwise()
    counter = FlopCounterMode(display=False, custom_mapping=TRANSFORMS)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), elementwise, counter:
        run()
    by_operation = counter.get_flop_counts().get("Global", {})
    transform = sum(number for operation, number in by_operation.items() if operation in TRANSFORMS)
    return Counted(
        matrix=sum(by_operation.values()) - transform,
        transform=transform,
        elementwise=elementwise.results,
    )


def _real(shape: Sequence[int], axes: Sequence[int], *_: object, out_shape: object = None, **__: object) -> int:
    """Of a real input of `shape`, transformed over `axes`."""
    return math.ceil(2.5 * math.prod(shape) * math.log2(max(2, math.prod(shape[each] for each in axes))))


def _to_real(
    shape: Sequence[int], axes: Sequence[int], norm: int, size: int, *_: object, out_shape: object = None, **__: object
) -> int:
    """Of a half spectrum whose last axis stands for `size` real numbers."""
    whole = [size if each == axes[-1] % len(shape) else extent for each, extent in enumerate(shape)]
    return _real(whole, axes)


def _complex(shape: Sequence[int], axes: Sequence[int], *_: object, out_shape: object = None, **__: object) -> int:
    return 2 * _real(shape, axes)


TRANSFORMS: dict[Any, Any] = {aten._fft_r2c: _real, aten._fft_c2r: _to_real, aten._fft_c2c: _complex}


class _Elementwise(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.results = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        if torch.Tag.pointwise in func.tags and func._overloadpacket.__name__.rstrip("_") not in MOVES:
            self.results += sum(each.numel() for each in tree_leaves(outputs) if isinstance(each, Tensor))
        return outputs
