"""The selective scan as its literal recurrence, one step at a time."""

import torch
from torch import Tensor


def selective_scan(
    q: Tensor, k: Tensor, v: Tensor, step: Tensor, rate: Tensor, initial_state: Tensor
) -> tuple[Tensor, Tensor]:
    """Output [B, T, H, V] and last state [B, H, K, V]."""
    state, outputs = initial_state, []
    # unbind, not indexing: its backward is linear in T
    for q_t, k_t, v_t, step_t in zip(*(x.unbind(1) for x in (q, k, v, step)), strict=True):
        decay = (step_t.unsqueeze(-2) * rate).exp()
        state = decay * state + k_t.unsqueeze(-1) * (step_t * v_t).unsqueeze(-2)
        outputs.append(torch.einsum("bhk,bhkv->bhv", q_t, state))
    return torch.stack(outputs, 1), state
