"""Resolvent and delta rule as literal recurrences, one step at a time."""

import torch
from torch import Tensor

from archloom.kernels.arguments import accumulator


def resolvent(
    b: Tensor, k: Tensor, x: Tensor, log_decay: Tensor | None, initial_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """z_t = x_t - (Diag(e^g_t) S_{t-1})^T b_t and S_t = Diag(e^g_t) S_{t-1} + k_t z_t^T; returns z and the state."""
    z, _, state = _recurrence(k, b, k, x, log_decay, initial_state)
    return z, state


def delta_rule(
    q: Tensor, b: Tensor, k: Tensor, x: Tensor, log_decay: Tensor | None, initial_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The same recurrence read out by o_t = S_t^T q_t; returns o and the state."""
    _, out, state = _recurrence(q, b, k, x, log_decay, initial_state)
    return out, state


def _recurrence(
    q: Tensor, b: Tensor, k: Tensor, x: Tensor, log_decay: Tensor | None, initial_state: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = accumulator(k.dtype)
    if log_decay is None:
        log_decay = k.new_zeros(k.shape[:3])
    if log_decay.dim() == 3:
        log_decay = log_decay.unsqueeze(-1)
    batch, _, heads, width = k.shape
    state = k.new_zeros(batch, heads, width, x.shape[-1], dtype=dtype) if initial_state is None else initial_state
    solved, outputs = [], []
    # unbind, not indexing: its backward is linear in T
    steps = (tensor.to(dtype).unbind(1) for tensor in (q, b, k, x, log_decay))
    for q_t, b_t, k_t, x_t, g_t in zip(*steps, strict=True):
        state = g_t.exp().unsqueeze(-1) * state
        z_t = x_t - torch.einsum("bhk,bhkv->bhv", b_t, state)
        state = state + k_t.unsqueeze(-1) * z_t.unsqueeze(-2)
        solved.append(z_t)
        outputs.append(torch.einsum("bhk,bhkv->bhv", q_t, state))
    return torch.stack(solved, 1), torch.stack(outputs, 1), state
