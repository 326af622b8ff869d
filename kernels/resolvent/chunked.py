"""Chunked resolvent and delta rule: `kernels.chunks` where its factors are safe, and a form for any decay beside it.

In both every chunk is solved at once, then one small affine step per chunk joins them.
"""

import torch
from torch import Tensor

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


def resolvent(
    b: Tensor,
    k: Tensor,
    x: Tensor,
    log_decay: Tensor | None,
    initial_state: Tensor | None,
    return_state: bool,
    chunk: int | None,
) -> tuple[Tensor, Tensor | None]:
    """z [B, T, H, V] in the accumulator's type, and the last state [B, H, K, V] if it is asked for."""
    return _solve(None, b, k, x, log_decay, initial_state, return_state, chunk)


def delta_rule(
    q: Tensor,
    b: Tensor,
    k: Tensor,
    x: Tensor,
    log_decay: Tensor | None,
    initial_state: Tensor | None,
    return_state: bool,
    chunk: int | None,
) -> tuple[Tensor, Tensor | None]:
    """o [B, T, H, V] in the accumulator's type, and the last state [B, H, K, V] if it is asked for."""
    return _solve(q, b, k, x, log_decay, initial_state, return_state, chunk)


def _solve(
    q: Tensor | None,
    b: Tensor,
    k: Tensor,
    x: Tensor,
    log_decay: Tensor | None,
    initial_state: Tensor | None,
    return_state: bool,
    chunk: int | None,
) -> tuple[Tensor, Tensor | None]:
    steps, dtype = k.shape[1], accumulator(k.dtype)
    length = chunk_length(steps, chunk, by_channel=log_decay is not None and log_decay.dim() == 4)
    fit = fitting(log_decay, length)
    if fit is not None:
        return one_pass(q, b, k, x, log_decay, initial_state, return_state, fit)
    readers = tuple(to_chunks(reader.to(dtype), length) for reader in (b, q) if reader is not None)
    key, value = to_chunks(k.to(dtype), length), to_chunks(x.to(dtype), length)
    total = chunk_totals(log_decay, length, dtype)
    system, *reads = lower_scores(readers, key, total)

    if value.shape[2] == 1 and initial_state is None:
        z, states = solve_unit_lower(system, value), None
    else:
        solved = solve_unit_lower(system, torch.cat([value, since_start(readers[0], total)], -1))
        free, response = torch.split(solved, [value.shape[-1], key.shape[-1]], -1)
        states = _chunk_states(free, response, until_end(key, total), total, initial_state, return_state)
        z = free - response @ states[:, :, : value.shape[2]]

    out = z
    if q is not None:
        out = reads[0] @ z
        if states is not None:
            out = out + since_start(readers[1], total) @ states[:, :, : value.shape[2]]
    if not return_state:
        return from_chunks(out, steps), None
    last = until_end(key, total).transpose(-1, -2) @ z if states is None else states
    return from_chunks(out, steps), last[:, :, -1]


def solve_unit_lower(system: Tensor, x: Tensor) -> Tensor:
    """(I + strictly lower part of system)^-1 x by substitution; the solver reads nothing else of `system`."""
    solved: Tensor = torch.linalg.solve_triangular(system, x, upper=False, unitriangular=True)
    return solved


def _chunk_states(
    free: Tensor, response: Tensor, keys: Tensor, total: Tensor | None, initial_state: Tensor | None, with_last: bool
) -> Tensor:
    """States before each chunk (and after the last), [B, H, N or N+1, K, V].

    With z = free - response S inside a chunk, the state after it is A S + keys^T free, A = e^{G_C} - keys^T response.
    """
    chunks = free.shape[2] if with_last else free.shape[2] - 1
    width, value_width = keys.shape[-1], free.shape[-1]
    start = free.new_zeros(*free.shape[:2], width, value_width) if initial_state is None else initial_state
    state = start.to(free.dtype).flatten(0, 1)
    states = [state]
    if chunks > 0:
        solved = torch.cat([free, response], -1)[:, :, :chunks]
        update = keys[:, :, :chunks].transpose(-1, -2) @ solved
        written, erased = torch.split(update, [value_width, width], -1)
        kept = torch.eye(width, dtype=free.dtype, device=free.device)
        if total is not None:
            kept = kept * total[:, :, :chunks, -1:].exp()
        transition = kept - erased
        for added, moved in zip(written.flatten(0, 1).unbind(1), transition.flatten(0, 1).unbind(1), strict=True):
            state = torch.baddbmm(added, moved, state)
            states.append(state)
    return torch.unflatten(torch.stack(states, 1), 0, free.shape[:2])
