"""One pass over chunks, forward and backward, of a decayed inner-product kernel: applied, resolved, or both.

    z = x                     or   z_t = x_t - sum over s < t of <b_t, k_s>_g z_s
    o_t = sum over s <= t of <q_t, k_s>_g z_s,    S_t = sum over s <= t of (k_s decayed to t) z_s^T

Inside a chunk with cumulative decay G and P = G_C in all, readers and keys are scaled about the middle of the decay,

    q~ = q e^{G - P/2},    b~ = b e^{G - P/2},    k~ = k e^{P/2 - G}
    A_q = lower(q~ k~^T),    A_b = strictly lower(b~ k~^T)

and so is the state before it, R = e^{P/2} S. With P' that of the next chunk,

    z = (I + A_b)^-1 (x - b~ R),    o = A_q z + q~ R,    R' = e^{P/2 + P'/2} (R + k~^T z)

No exponent but those of the scaling is ever positive, and none is above |P| / 2: `fitting` tells where that is safe.

The backward walks the chunks once in reverse. With U the gradient that arrives at R + k~^T z,

    dz = A_q^T do + k~ U,    dx = (I + A_b)^-T dz,    dA_q = do z^T,    dA_b = -dx z^T
    dR = q~^T do - b~^T dx + U

and exponents are never differentiated. Each pair s < t carries e^{G_t - G_s}, so what a log decay receives is a sum of
products that are formed anyway: q~ dq~ + b~ db~ - k~ dk~, summed backwards inside the chunk, and every pair that
crosses the chunk's end once more, which is R' . dR'. All sums are as short as a chunk, so none cancels over the
sequence. (The sum over the whole sequence is in Yang et al. 2024, arXiv:2312.06635, section 4.)

Layout here: [N, P, C, K], chunks outermost, P = B H.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from archloom.kernels.arguments import accumulator

WIDEST = {torch.float32: 80.0, torch.float64: 600.0}
"""The log decay of a chunk up to which its factors e^{P/2}, and the products of two, stay far from overflow."""
SHORTEST = 16
"""Steps of the shortest chunk that is worth a state."""


def fitting(log_decay: Tensor | None, length: int) -> int | None:
    """The longest chunk of `length`, its half, ..., SHORTEST steps that forgets no more than the pass can scale by.

    None if there is none. Reads values, and so waits for the device.
    """
    while log_decay is not None and not _fits(log_decay.detach(), length):
        if length < 2 * SHORTEST:
            return None
        length //= 2
    return length


def _fits(log_decay: Tensor, length: int) -> bool:
    missing = -log_decay.shape[1] % length
    whole = pad(log_decay, (0, 0) * (log_decay.dim() - 2) + (0, missing)) if missing else log_decay
    total = torch.unflatten(whole, 1, (-1, length)).sum(2, dtype=accumulator(whole.dtype))
    return bool(total.min() >= -WIDEST[total.dtype])


def one_pass(
    q: Tensor | None,
    b: Tensor | None,
    k: Tensor,
    x: Tensor,
    log_decay: Tensor | None,
    initial_state: Tensor | None,
    return_state: bool,
    length: int,
) -> tuple[Tensor, Tensor | None]:
    """o, or z without q, [B, T, H, V], and if it is asked for the last state [B, H, K, V], in the accumulator's type.

    q, b, k [B, T, H, K], x [B, T, H, V], log_decay [B, T, H] or [B, T, H, K] which `length` must fit, initial_state
    [B, H, K, V]; without b nothing is resolved. `length` is that of the chunks.
    """
    joined = return_state or initial_state is not None or k.shape[1] > length
    out, last = _Pass.apply(q, b, k, x, log_decay, initial_state, length, joined)  # type: ignore[no-untyped-call]
    return out, last if return_state else None


class _Decay(NamedTuple):
    """`left` e^{G - P/2} and `right` e^{P/2 - G} [N, P, C, 1 or K]; `first`, e^{P/2} of the first chunk, and `between`,
    e^{P/2 + P'/2} [N, P, 1 or K, 1]."""

    left: Tensor
    right: Tensor
    first: Tensor
    between: Tensor


def _decays(log_decay: Tensor | None, length: int, dtype: torch.dtype) -> _Decay | None:
    if log_decay is None:
        return None
    total = _chunked((log_decay if log_decay.dim() == 4 else log_decay.unsqueeze(-1)).to(dtype), length, None).cumsum(2)
    half = total[:, :, -1:] / 2
    total -= half
    halves = pad(half, (0, 0, 0, 0, 0, 0, 0, 1)).transpose(-1, -2)  # behind the last chunk the state is not scaled
    return _Decay(total.exp(), total.neg().exp_(), halves[0].exp(), (halves[:-1] + halves[1:]).exp_())


def _chunked(x: Tensor, length: int, factor: Tensor | None) -> Tensor:
    """[B, T, H, K] -> [N, P, C, K] times a factor, zeros after the end."""
    missing = -x.shape[1] % length
    if missing:
        x = pad(x, (0, 0, 0, 0, 0, missing))
    batch, steps, heads, width = x.shape
    view = x.view(batch, steps // length, length, heads, width).permute(1, 0, 3, 2, 4)
    if factor is None:
        return view.reshape(steps // length, batch * heads, length, width).contiguous()
    out = factor.new_empty(steps // length, batch, heads, length, width)
    _multiply(view, factor.view(*out.shape[:3], length, -1), out)
    return out.flatten(1, 2)


def _unchunked(x: Tensor, factor: Tensor | None, batch: int, steps: int, dtype: torch.dtype) -> Tensor:
    """[N, P, C, V] times a factor -> [B, T, H, V]."""
    chunks, pairs, length, width = x.shape
    out = x.new_empty(batch, chunks, length, pairs // batch, width)
    target, source = out.permute(1, 0, 3, 2, 4), x.view(chunks, batch, pairs // batch, length, width)
    if factor is None:
        target.copy_(source)
    else:
        _multiply(source, factor.view(*source.shape[:4], -1), target)
    return out.view(batch, chunks * length, pairs // batch, width)[:, :steps].to(dtype)


def _multiply(x: Tensor, factor: Tensor, out: Tensor) -> None:
    """x times a factor into `out`; torch.compile takes the layout of a result for that of what it was written to."""
    if torch.compiler.is_compiling():
        out.copy_(x * factor)
    else:
        torch.mul(x, factor, out=out)


def _add_product(total: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    """total + left @ right, in place where there is a total."""
    if total is None:
        return left @ right
    total.view(-1, *total.shape[2:]).baddbmm_(left.flatten(0, 1), right.flatten(0, 1))
    return total


def _walk(written: Tensor, moved: Tensor | None, factor: Tensor | None, start: Tensor | None) -> Tensor:
    """R_0 .. R_N, [N + 1, P, K, V]: R_{n+1} = factor_n (moved_n R_n + written_n), moved being I where it is None."""
    chunks, *shape = written.shape
    states = written.new_empty(chunks + 1, *shape)
    states[0] = 0 if start is None else start
    if moved is None and factor is None:
        states[1:] = written
        return states.cumsum_(0)
    for n, (state, after) in enumerate(zip(states[:-1].unbind(0), states[1:].unbind(0), strict=True)):
        if moved is None:
            torch.add(state, written[n], out=after)
        else:
            torch.baddbmm(written[n], moved[n], state, out=after)
        if factor is not None:
            after *= factor[n]
    return states


def _walk_back(arriving: Tensor, moved: Tensor | None, factor: Tensor | None, last: Tensor) -> tuple[Tensor, Tensor]:
    """dR_0 .. dR_N, [N + 1, P, K, V], and U_0 .. U_{N-1}: dR_n = arriving_n + moved_n^T U_n, U_n = factor_n dR_{n+1}.

    Where nothing decays they are the same numbers.
    """
    chunks = len(arriving)
    d_states = arriving.new_empty(chunks + 1, *last.shape)
    d_states[-1] = last
    behind = d_states[1:] if factor is None else torch.empty_like(arriving)
    for n in range(chunks - 1, -1, -1):
        if factor is not None:
            torch.mul(d_states[n + 1], factor[n], out=behind[n])
        if moved is None:
            torch.add(arriving[n], behind[n], out=d_states[n])
        else:
            torch.baddbmm(arriving[n], moved[n].transpose(-1, -2), behind[n], out=d_states[n])
    return d_states, behind


class _Parts(NamedTuple):
    """What the backward needs: scaled inputs, z, A_q, the system I + A_b (read below its diagonal only), its answer to
    b~, what it moves states by, and R_0 .. R_N, which is None where a single chunk neither meets nor leaves a state."""

    query: Tensor | None
    writer: Tensor | None
    key: Tensor
    z: Tensor
    reads: Tensor | None = None
    system: Tensor | None = None
    response: Tensor | None = None
    moved: Tensor | None = None
    states: Tensor | None = None


def _forward(parts: _Parts, between: Tensor | None, start: Tensor | None, joined: bool) -> tuple[Tensor, _Parts]:
    """o or z of all chunks, and the parts with what was made; `parts.z` is x here."""
    query, writer, key, value, *_ = parts
    system = response = moved = states = None
    z = value
    if writer is not None:
        system = writer @ key.transpose(-1, -2)
        given = torch.cat([value, writer], -1) if joined else value
        z = torch.linalg.solve_triangular(system, given, upper=False, unitriangular=True)
    if joined:
        update = key.transpose(-1, -2) @ z
        if writer is not None:
            z, response = torch.split(z, [value.shape[-1], key.shape[-1]], -1)
            update, erased = torch.split(update, [value.shape[-1], key.shape[-1]], -1)
            moved = -erased
            moved.diagonal(dim1=-2, dim2=-1).add_(1)
        states = _walk(update, moved, between, start)
        if response is not None:
            z = z - response @ states[:-1]
    reads, out = None, z
    if query is not None:
        reads = (query @ key.transpose(-1, -2)).tril_()
        out = reads @ z if states is None else _add_product(reads @ z, query, states[:-1])
    return out, _Parts(query, writer, key, z, reads, system, response, moved, states)


def _backward(
    parts: _Parts, between: Tensor | None, d_out: Tensor, d_last: Tensor
) -> tuple[list[Tensor | None], Tensor, Tensor, Tensor | None]:
    """Gradients at query and writer, at the key, at x, and at R_0 .. R_N, of the scaled parts."""
    query, writer, key, z, reads, system, response, moved, states = parts
    d_z = d_out if reads is None else reads.transpose(-1, -2) @ d_out
    d_states = behind = d_key = None
    if states is not None:
        arriving = None if query is None else query.transpose(-1, -2) @ d_out
        if response is not None:
            arriving = _add_product(arriving, response.transpose(-1, -2), d_z.neg())
        assert arriving is not None
        d_states, behind = _walk_back(arriving, moved, between, d_last)
        d_z = _add_product(d_z.clone() if d_z is d_out else d_z, key, behind)
        d_key = z @ behind.transpose(-1, -2)
    if system is not None:
        d_z = torch.linalg.solve_triangular(system.transpose(-1, -2), d_z, upper=True, unitriangular=True)
    d_readers: list[Tensor | None] = []
    for reader, diagonal, given in ((query, 0, d_out), (writer, -1, d_z.neg() if writer is not None else d_z)):
        d_reader = None
        if reader is not None:
            d_scores = (given @ z.transpose(-1, -2)).tril_(diagonal)
            d_key = _add_product(d_key, d_scores.transpose(-1, -2), reader)
            d_reader = d_scores @ key
            if states is not None:
                d_reader = _add_product(d_reader, given, states[:-1].transpose(-1, -2))
        d_readers.append(d_reader)
    assert d_key is not None
    return d_readers, d_key, d_z, d_states


class _Pass(Function):
    """Scales, orders and casts; what is computed on chunks is `_forward` and `_backward`."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor | None,
        b: Tensor | None,
        k: Tensor,
        x: Tensor,
        log_decay: Tensor | None,
        initial_state: Tensor | None,
        length: int,
        joined: bool,
    ) -> tuple[Tensor, Tensor]:
        dtype, (batch, steps, heads, width) = accumulator(k.dtype), k.shape
        decay = _decays(log_decay, length, dtype)
        left, right, first, between = decay or (None, None, None, None)
        query, writer = (None if each is None else _chunked(each.to(dtype), length, left) for each in (q, b))
        key, value = _chunked(k.to(dtype), length, right), _chunked(x.to(dtype), length, None)
        start = None if initial_state is None else initial_state.to(dtype).flatten(0, 1)
        start = start if start is None or first is None else start * first
        out, parts = _forward(_Parts(query, writer, key, value), between, start, joined)
        ctx.save_for_backward(*parts, *(decay or ()))
        ctx.length, ctx.sizes, ctx.by_channel = length, (batch, steps), log_decay is not None and log_decay.dim() == 4
        ctx.dtypes = [None if each is None else each.dtype for each in (q, b, k, x, log_decay, initial_state)]
        last = key.new_empty(0) if parts.states is None else parts.states[-1].view(batch, heads, width, -1)
        return _unchunked(out, None, batch, steps, dtype), last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor, d_last: Tensor) -> tuple[Tensor | None, ...]:
        parts, decay = _Parts(*ctx.saved_tensors[: len(_Parts._fields)]), ctx.saved_tensors[len(_Parts._fields) :]
        left, right, first, between = decay or (None, None, None, None)
        dtype = parts.key.dtype
        d_out, d_last = _chunked(d_out.to(dtype), ctx.length, None), d_last.to(dtype)
        d_last = d_last if parts.states is None else d_last.flatten(0, 1)
        d_readers, d_key, d_value, d_states = _backward(parts, between, d_out, d_last)

        d_decay = d_start = None
        if decay:
            crossing = None
            if parts.states is not None and d_states is not None:
                crossing = (parts.states[1:] * d_states[1:]).sum(-1)
            pairs = [(parts.key, d_key), (parts.query, d_readers[0]), (parts.writer, d_readers[1])]
            d_decay = _decay_gradient(pairs, crossing, ctx.by_channel)
        batch, steps = ctx.sizes
        scaled = ((d_readers[0], left), (d_readers[1], left), (d_key, right), (d_value, None), (d_decay, None))
        found = [
            None if each is None else _unchunked(each, scale, batch, steps, to)
            for (each, scale), to in zip(scaled, ctx.dtypes, strict=False)
        ]
        if found[4] is not None and not ctx.by_channel:
            found[4] = found[4].squeeze(-1)
        if ctx.dtypes[5] is not None and d_states is not None:
            d_start = (d_states[0] if first is None else d_states[0] * first).to(ctx.dtypes[5])
            d_start = d_start.view(batch, -1, *d_start.shape[1:])
        return (*found, d_start, None, None)


def _decay_gradient(
    pairs: Sequence[tuple[Tensor | None, Tensor | None]], crossing: Tensor | None, by_channel: bool
) -> Tensor:
    """[N, P, C, 1 or K]: q dq + b db - k dk summed backwards inside chunks, and `crossing` [N, P, K] of their ends.

    `pairs` are the key, then the readers, each with its gradient.
    """
    (key, d_key), *readers = pairs
    assert key is not None
    assert d_key is not None
    local = (key * d_key).neg_()
    for reader, gradient in readers:
        if reader is not None and gradient is not None:
            local.addcmul_(reader, gradient)
    local = local if by_channel else local.sum(-1, keepdim=True)
    upto = local.cumsum(2)
    end = upto[:, :, -1:]
    if crossing is not None:
        end = end + (crossing if by_channel else crossing.sum(-1, keepdim=True)).unsqueeze(-2)
    return local.sub_(upto).add_(end)
