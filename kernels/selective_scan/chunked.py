"""The selective scan in chunks of steps, with a backward of its own that keeps one state a chunk.

Dimensions are time first, [T, B, H, ...], so that the states of one step are contiguous. Everything but the recurrence
itself is done for a whole chunk at once; the recurrence is one multiply-add in place for each step.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

CHUNK = 32
"""Steps whose states exist at once."""


def selective_scan(
    q: Tensor, k: Tensor, v: Tensor, step: Tensor, rate: Tensor, initial_state: Tensor
) -> tuple[Tensor, Tensor]:
    """Output [B, T, H, V] and last state [B, H, K, V]; all of one dtype."""
    written = step * v
    by_time = (x.transpose(0, 1).contiguous() for x in (q, k, written, step))
    out, state = _Scan.apply(*by_time, rate, initial_state)  # type: ignore[no-untyped-call]
    return out.transpose(0, 1), state


class _Scan(torch.autograd.Function):
    """h_t = exp(step_t rate) h_{t-1} + k_t w_t^T and o_t = h_t^T q_t, differentiable once."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, q: Tensor, k: Tensor, written: Tensor, step: Tensor, rate: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        outputs, starts = [], []
        for query, key, write, steps in _chunks(q, k, written, step):
            starts.append(state)
            states = _states(key, write, _decay(steps, rate), state)
            outputs.append((query.unsqueeze(-2) @ states).squeeze(-2))
            state = states[-1].clone()  # a view would keep the whole chunk
        ctx.save_for_backward(q, k, written, step, rate, torch.stack(starts))
        return torch.cat(outputs), state

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor, later: Tensor) -> tuple[Tensor, ...]:
        *sequences, rate, starts = ctx.saved_tensors  # type: ignore[attr-defined]
        for_rate = torch.zeros_like(rate)
        parts: list[tuple[Tensor, ...]] = []
        for chunk, start in zip(reversed(list(_chunks(*sequences, grad))), starts.flip(0), strict=True):
            *part, decay_slopes, later = _chunk_backward(rate, start, later, *chunk)
            steps = chunk[3]
            for_rate += (decay_slopes * steps.unsqueeze(-2)).sum((0, 1))
            parts.append((*part, (decay_slopes * rate).sum(-2)))
        return *(torch.cat(part[::-1]) for part in zip(*parts, strict=True)), for_rate, later


def _chunk_backward(
    rate: Tensor, start: Tensor, later: Tensor, q: Tensor, k: Tensor, written: Tensor, step: Tensor, grad: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of one chunk's q, k, written, of its log decays [C, B, H, K, V], and of the state before it.

    `later` is what the steps after the chunk ask of its last state. With s_t the gradient of h_t, s_t = q_t o'_t^T +
    decay_{t+1} s_{t+1}, and the gradient of the log decay is s_t decay_t h_{t-1}.
    """
    decay = _decay(step, rate)
    states = _states(k, written, decay, start)
    slopes = _outer(q, grad)
    slope, factor = slopes.unbind(), decay.unbind()
    slope[-1].add_(later)
    for t in range(len(slope) - 1, 0, -1):
        slope[t - 1].addcmul_(factor[t], slope[t])
    # products and sums: a batched matrix-vector product is twice as slow at these sizes
    for_q = (states * grad.unsqueeze(-2)).sum(-1)
    for_k = (slopes * written.unsqueeze(-2)).sum(-1)
    for_written = (k.unsqueeze(-2) @ slopes).squeeze(-2)
    decayed = decay.mul_(slopes)
    earlier = decayed[0].clone()
    decayed[0].mul_(start)
    decayed[1:].mul_(states[:-1])
    return for_q, for_k, for_written, decayed, earlier


def _chunks(*sequences: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(torch.split(x, CHUNK) for x in sequences), strict=True)


def _decay(step: Tensor, rate: Tensor) -> Tensor:
    """[C, B, H, K, V]."""
    return (step.unsqueeze(-2) * rate).exp_()


def _outer(k: Tensor, v: Tensor) -> Tensor:
    return k.unsqueeze(-1) * v.unsqueeze(-2)


def _states(k: Tensor, written: Tensor, decay: Tensor, start: Tensor) -> Tensor:
    """The states after each step of a chunk, [C, B, H, K, V]."""
    states = _outer(k, written)
    state, factor = states.unbind(), decay.unbind()
    state[0].addcmul_(factor[0], start)
    for t in range(1, len(state)):
        state[t].addcmul_(factor[t], state[t - 1])
    return states
