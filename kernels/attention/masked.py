"""Softmax attention in one call of the fused kernel, with a mask [T, S], with anything added to the scores, or
with one plus the sum.

The extra 1 is the exponential of the logit 0 of one more key, a zero key whose value is zero.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from archloom.kernels.arguments import accumulator
from archloom.kernels.attention.fused import fused


def attention(
    q: Tensor, k: Tensor, v: Tensor, added: Tensor | None, seen: Tensor | None, scale: float, *, plus_one: bool
) -> Tensor:
    """[B, T, H, V] in the dtype of q.

    Args:
        q: [B, T, H, K].
        k: [B, S, G, K].
        v: [B, S, G, V].
        added: None or what is added to the logits, [H, T, S] or [B, H, T, S], in the accumulator's type.
        seen: None for all, or [T, S] of bool.
        scale: factor of the inner products.
        plus_one: whether the denominator is one plus the sum.
    """
    dtype, blind = q.dtype, None
    if seen is not None:
        blind = ~seen.any(-1, keepdim=True)
        seen = seen | blind  # a row without keys has no softmax; it is filled with zeros afterwards
    if plus_one:
        k, v = (pad(x, (0, 0, 0, 0, 0, 1)) for x in (k, v))
        seen = None if seen is None else pad(seen, (0, 1), value=True)
        added = None if added is None else pad(added, (0, 1))
    mask = seen
    if added is not None:
        q, k, v = (x.to(accumulator(dtype)) for x in (q, k, v))
        mask = added if seen is None else added.masked_fill(~seen, -torch.inf)
    out = fused(q, k, v, None, mask, scale).to(dtype)
    return out if blind is None else out.masked_fill(blind.unsqueeze(-1), 0)
