"""Local linear attention by its dense definition: every difference k_s - q_t is formed."""

import torch
from torch import Tensor

from archloom.kernels.arguments import accumulator
from archloom.kernels.visibility import visible


def local_linear(
    q: Tensor, k: Tensor, v: Tensor, ridge: Tensor, scale: float, window: int | None, mask: Tensor | None
) -> Tensor:
    """[B, T, H, V] in the dtype of q."""
    dtype, (steps, sources) = accumulator(q.dtype), (q.shape[1], k.shape[1])
    kept = visible(steps, sources, window, mask, True, q.device)
    assert kept is not None
    query, key, value = (x.to(dtype).transpose(1, 2) for x in (q, k, v))
    logits = scale * query @ key.transpose(-1, -2)  # [B, H, T, S]
    largest = logits.masked_fill(~kept, -torch.inf).amax(-1, keepdim=True).clamp(min=torch.finfo(dtype).min)
    weights = (logits - largest).masked_fill(~kept, -torch.inf).exp()
    # where nothing is seen every sum is zero, and so is the output
    omega = weights.sum(-1) + (~kept.any(-1)).to(dtype)
    difference = key.unsqueeze(2) - query.unsqueeze(3)  # [B, H, T, S, K]
    mu = torch.einsum("bhts,bhtsk->bhtk", weights, difference)
    moment = torch.einsum("bhts,bhtsk,bhtsl->bhtkl", weights, difference, difference)
    identity = torch.eye(q.shape[-1], dtype=dtype, device=q.device)
    damping = (ridge.unsqueeze(-1) * omega)[..., None, None] * identity
    rho: Tensor = torch.linalg.solve(moment + damping, mu)
    corrected = weights * (1 - torch.einsum("bhtsk,bhtk->bhts", difference, rho))
    out = corrected @ value / (omega - (mu * rho).sum(-1)).unsqueeze(-1)
    return out.transpose(1, 2).to(q.dtype)
