"""Chunked decayed linear attention: `kernels.chunks` where its factors are safe, and a form for any decay beside it.

The form for any decay makes all chunks at once, then the states between them by one product per segment.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from archloom.kernels.arguments import accumulator
from archloom.kernels.chunks import fitting, one_pass
from archloom.kernels.decay import (
    chunk_length,
    chunk_totals,
    from_chunks,
    lower_scores,
    since_start,
    to_chunks,
    until_end,
)

SEGMENT = 64
"""Chunks whose states are related by one triangular product; segments follow one another in a loop."""


def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    initial_state: Tensor | None,
    return_state: bool,
    chunk: int | None,
) -> tuple[Tensor, Tensor | None]:
    """Output [B, T, H, V] in the accumulator's type, and the last state [B, H, K, V] if it is asked for."""
    steps, dtype = q.shape[1], accumulator(q.dtype)
    length = chunk_length(steps, chunk, by_channel=log_decay is not None and log_decay.dim() == 4)
    fit = fitting(log_decay, length)
    if fit is not None:
        return one_pass(q, None, k, v, log_decay, initial_state, return_state, fit)
    query, key, value = (to_chunks(x.to(dtype), length) for x in (q, k, v))
    total = chunk_totals(log_decay, length, dtype)
    (scores,) = lower_scores((query,), key, total)
    out = scores @ value
    chunks = out.shape[2]
    if chunks == 1 and initial_state is None and not return_state:
        return from_chunks(out, steps), None

    needed = chunks if return_state else chunks - 1
    written = until_end(key, total)[:, :, :needed].transpose(-1, -2) @ value[:, :, :needed]
    states = chunk_states(written, None if total is None else total[:, :, :needed, -1], initial_state)
    if chunks > 1 or initial_state is not None:
        out = out + since_start(query, total) @ states[:, :, :chunks]
    return from_chunks(out, steps), states[:, :, -1] if return_state else None


def exclusive_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    initial_state: Tensor | None,
    return_state: bool,
    chunk: int | None,
    *,
    bonus: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """As `linear_attention`, with o_t = (S_{t-1} + Diag(bonus) k_t v_t^T)^T q_t.

    The state before a step is what the query of the step reads one step earlier.
    """
    early = pad(q[:, 1:], (0, 0, 0, 0, 0, 1))
    read, state = linear_attention(early, k, v, log_decay, initial_state, return_state, chunk)
    query, key, value = (x.to(read.dtype) for x in (q, k, v))
    first = torch.zeros_like(read[:, :1])
    if initial_state is not None:
        first = torch.einsum("bthk,bhkv->bthv", query[:, :1], initial_state)
    out = torch.cat([first, read[:, :-1]], 1)
    if bonus is not None:
        out = out + (query * bonus.to(read.dtype) * key).sum(-1, keepdim=True) * value
    return out, state


def chunk_states(written: Tensor, decay: Tensor | None, initial_state: Tensor | None) -> Tensor:
    """States before each chunk and after the last, [B, H, N+1, K, V].

    `written` [B, H, N, K, V] is what each chunk adds, `decay` [B, H, N, 1 or K] the log decay over each chunk.
    """
    batch, heads, chunks, *size = written.shape
    start = written.new_zeros(batch, heads, *size) if initial_state is None else initial_state.to(written.dtype)
    if chunks == 0:
        return start.unsqueeze(2)
    if decay is None:
        return torch.cat([start.unsqueeze(2), written], 2).cumsum(2)
    states = [start.unsqueeze(2)]
    for added, logs in zip(torch.split(written, SEGMENT, 2), torch.split(decay, SEGMENT, 2), strict=True):
        states.append(_segment_states(states[-1][:, :, -1:], added, logs))
    return torch.cat(states, 2)


def _segment_states(start: Tensor, written: Tensor, decay: Tensor) -> Tensor:
    """S_n = sum over m <= n of exp(P_n - P_m) W_m with W_0 the state at the start; P is summed in float64."""
    since = pad(decay.transpose(-1, -2).double().cumsum(-1), (1, 0))  # [B, H, 1 or K, n+1]
    count = since.shape[-1]
    later = torch.ones(count - 1, count, dtype=torch.bool, device=decay.device).tril(1)
    lag = (since[..., 1:, None] - since[..., None, :]).masked_fill(~later, -torch.inf)
    weights = lag.to(written.dtype).exp()  # [B, H, 1 or K, n, n+1]
    terms = torch.cat([start, written], 2)  # [B, H, n+1, K, V]
    if weights.shape[2] == 1:
        return torch.unflatten(weights.squeeze(2) @ terms.flatten(3), 3, terms.shape[3:])
    return (weights @ terms.transpose(2, 3)).transpose(2, 3)
