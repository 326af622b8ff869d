"""Linear attention with a state in slots as its literal recurrence, one step at a time."""

import torch
from torch import Tensor

from archloom.kernels.arguments import accumulator


def sparse_state(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    read: Tensor,
    write: Tensor,
    log_decay: Tensor | None,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Output [B, T, H, V] without its scale, and state [B, H, N, K, V]; read and write [B, T, 1 or H, N]."""
    dtype = accumulator(q.dtype)
    batch, _, heads, width = q.shape
    if log_decay is None:
        log_decay = q.new_zeros(q.shape[:3])
    state = initial_state
    if state is None:
        state = q.new_zeros(batch, heads, read.shape[-1], width, v.shape[-1], dtype=dtype)
    outputs = []
    # unbind, not indexing: its backward is linear in T
    steps = (tensor.to(dtype).unbind(1) for tensor in (q, k, v, read, write, log_decay))
    for q_t, k_t, v_t, r_t, w_t, g_t in zip(*steps, strict=True):
        decay = torch.where(w_t > 0, g_t.unsqueeze(-1), 0.0).exp()  # [B, H, N]
        written = k_t.unsqueeze(-1) * v_t.unsqueeze(-2)
        state = decay[..., None, None] * state + w_t[..., None, None] * written.unsqueeze(2)
        seen = (r_t[..., None, None] * state).sum(2)
        outputs.append(torch.einsum("bhk,bhkv->bhv", q_t, seen))
    return torch.stack(outputs, 1), state
