"""Decayed linear attention as its literal recurrence, one step at a time."""

import torch
from torch import Tensor

from archloom.kernels.arguments import accumulator


def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    initial_state: Tensor | None,
    exclusive: bool,
    bonus: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """S_t = Diag(exp g_t) S_{t-1} + k_t v_t^T and o_t = S_t^T q_t: output [B, T, H, V] and state [B, H, K, V].

    If exclusive, o_t = (S_{t-1} + Diag(bonus) k_t v_t^T)^T q_t.
    """
    dtype = accumulator(q.dtype)
    if log_decay is None:
        log_decay = q.new_zeros(q.shape[:3])
    if log_decay.dim() == 3:
        log_decay = log_decay.unsqueeze(-1)
    batch, _, heads, width = q.shape
    state = q.new_zeros(batch, heads, width, v.shape[-1], dtype=dtype) if initial_state is None else initial_state
    outputs = []
    # unbind, not indexing: its backward is linear in T
    steps = (tensor.to(dtype).unbind(1) for tensor in (q, k, v, log_decay))
    for q_t, k_t, v_t, g_t in zip(*steps, strict=True):
        written = k_t.unsqueeze(-1) * v_t.unsqueeze(-2)
        read = state if bonus is None else state + bonus.to(dtype).unsqueeze(-1) * written
        state = g_t.exp().unsqueeze(-1) * state + written
        outputs.append(torch.einsum("bhk,bhkv->bhv", q_t, read if exclusive else state))
    return torch.stack(outputs, 1), state
