"""Linear attention with a state in slots, in chunks: all chunks at once, then the states between them.

Inside a chunk the scores of tokens are <q_t, k_s> times what goes from s to t through the slots, a decayed inner
product of the routes with a channel for each slot (`kernels.decay`, in which no exponent is positive).
"""

import torch
from torch import Tensor

from archloom.kernels.arguments import accumulator
from archloom.kernels.decay import (
    chunk_length,
    chunk_totals,
    from_chunks,
    lower_scores,
    since_start,
    to_chunks,
    until_end,
)
from archloom.kernels.linear_attention.chunked import chunk_states


def sparse_state(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    read: Tensor,
    write: Tensor,
    log_decay: Tensor | None,
    initial_state: Tensor | None,
    return_state: bool,
    chunk: int | None,
) -> tuple[Tensor, Tensor | None]:
    """Output [B, T, H, V] in the accumulator's type, without its scale, and the last state if it is asked for.

    Read and write are [B, T, 1 or H, N], the states [B, H, N, K, V].
    """
    steps, dtype = q.shape[1], accumulator(q.dtype)
    length = chunk_length(steps, chunk, by_channel=log_decay is not None)
    query, key, value, reading, writing = (to_chunks(x.to(dtype), length) for x in (q, k, v, read, write))
    total = None
    if log_decay is not None:  # [B, H, M, C, N], M chunks of C steps
        total = chunk_totals(torch.where(write > 0, log_decay.to(dtype).unsqueeze(-1), 0.0), length, dtype)
    (through,) = lower_scores((reading,), writing, total)
    out = (query @ key.transpose(-1, -2) * through) @ value
    chunks = out.shape[2]
    if chunks == 1 and initial_state is None and not return_state:
        return from_chunks(out, steps), None

    needed = chunks if return_state else chunks - 1
    left = until_end(writing, total)[:, :, :needed]
    written = _over_slots(left, key[:, :, :needed]).transpose(-1, -2) @ value[:, :, :needed]  # [B, H, M, N K, V]
    (batch, heads, slots), (width, depth) = (out.shape[0], out.shape[1], read.shape[-1]), (q.shape[-1], v.shape[-1])
    states = chunk_states(
        written.reshape(batch, heads, needed, slots, width * depth),  # a decay is that of a slot
        None if total is None else total[:, :, :needed, -1],
        None if initial_state is None else initial_state.flatten(3),
    )
    if chunks > 1 or initial_state is not None:
        before = states[:, :, :chunks].reshape(batch, heads, chunks, slots * width, depth)
        out = out + _over_slots(since_start(reading, total), query) @ before
    last = torch.unflatten(states[:, :, -1], -1, (width, depth)) if return_state else None
    return from_chunks(out, steps), last


def _over_slots(route: Tensor, x: Tensor) -> Tensor:
    """The features of every token once for each slot, [.., C, N] and [.., C, K] -> [.., C, N K]."""
    return (route.unsqueeze(-1) * x.unsqueeze(-2)).flatten(-2)
