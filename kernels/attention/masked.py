"""Softmax attention under any mask [T, S], with an additive bias or the denominator 1 + sum exp.

The extra 1 is the exponential of the logit 0 of one more key, a zero key whose value is zero.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from archloom.kernels.arguments import accumulator
from archloom.kernels.attention.chunked import fused


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    bias: Tensor | None,
    kept: Tensor | None,
    scale: float,
    plus_one: bool,
) -> Tensor:
    """[B, T, H, V] in the dtype of q; `kept` [T, S] says which keys a query sees, None for all."""
    dtype, blind = q.dtype, None
    added = _added(log_decay, bias, q.shape[1], accumulator(dtype))
    if kept is not None:
        blind = ~kept.any(-1, keepdim=True)
        kept = kept | blind  # a row without keys has no softmax; it is filled with zeros afterwards
    if plus_one:
        k, v = (pad(x, (0, 0, 0, 0, 0, 1)) for x in (k, v))
        kept = None if kept is None else pad(kept, (0, 1), value=True)
        added = None if added is None else pad(added, (0, 1))
    mask = kept
    if added is not None:
        q, k, v = (x.to(added.dtype) for x in (q, k, v))
        mask = added if kept is None else added.masked_fill(~kept, -torch.inf)
    out = fused(q, k, v, None, mask, scale).to(dtype)
    return out if blind is None else out.masked_fill(blind.unsqueeze(-1), 0)


def _added(log_decay: Tensor | None, bias: Tensor | None, steps: int, dtype: torch.dtype) -> Tensor | None:
    """What is added to the logits, [H, T, S] or [B, H, T, S]."""
    if log_decay is None:
        return None if bias is None else bias.to(dtype)
    total = log_decay.double().cumsum(1).transpose(1, 2)  # [B, H, S]
    position = torch.arange(total.shape[-1], device=total.device)
    # backwards in time the decay counts as well
    direction = (position[-steps:].unsqueeze(1) - position).sign()
    decay = (direction * (total[..., -steps:].unsqueeze(-1) - total.unsqueeze(-2))).to(dtype)
    return decay if bias is None else decay + bias.to(dtype)
