"""The strictly causal resolvent of damped softmax attention, by blocks of rows.

With the softmax weights w and gates g, A_ts = g_t w_ts for s < t, and z = (I + A)^-1 x. A block n of rows sees its own
columns D and those before it, W:

    z_n = (I + g D)^-1 (x_n - g W z_<)

The backward walks the blocks in reverse. With y = (I + A)^-T dz and m = strict(w) z, which the forward keeps,

    y_n = (I + g D)^-T (dz_n - what later rows gave),    what row t gives to column s < t: g_t w_ts y_t
    dx = y,    dg_t = -<y_t, m_t>,    d score_ts = w_ts (g_t <y_t, m_t> - [s < t] g_t <y_t, z_s>)

the last as in softmax attention, of which the cotangent is -g y. Weights are formed again, block by block, where they
are too many to be kept.
"""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from archloom.kernels.arguments import accumulator, check_alike, check_decay_sign, check_shape
from archloom.kernels.attention import reference
from archloom.kernels.attention.checks import check_mask, check_tensors
from archloom.kernels.attention.chunked import KEPT_SCORES
from archloom.kernels.attention.positions import PositionalMask
from archloom.kernels.attention.rule import Rule
from archloom.kernels.backends import unknown_backend

BLOCK = 64
"""Rows that are solved at once."""


def attention_resolvent(
    q: Tensor,
    k: Tensor,
    x: Tensor,
    *,
    gate: Tensor,
    log_decay: Tensor | None = None,
    window: int | None = None,
    scale: float | None = None,
    earlier: Tensor | None = None,
    backend: Literal["chunked", "reference"] = "chunked",
) -> Tensor:
    """z_t = x_t - g_t sum over s < t of w_ts z_s, with w the causal softmax attention of t, itself among what it sees.

    Args:
        q: [B, T, H, K].
        k: [B, S, G, K] with S >= T and H a multiple of G; the T steps are the last of the S positions.
        x: [B, T, H, V].
        gate: [B, T, H], which damps each row; with |g| < 1 the resolvent is bounded by a geometric sum.
        log_decay: None or [B, S, H], as in `attention`.
        window: keep only 0 <= t - s < window; None keeps all.
        scale: factor of the inner products; None for K ** -0.5.
        earlier: z of the S - T positions before, [B, S - T, H, V]; None where S = T.
        backend: "chunked", differentiable once, or "reference" for the literal substitution.

    Returns:
        z [B, T, H, V] in the dtype of x.

    Raises:
        ValueError: for shapes, dtypes or devices that do not fit, a window below 1, or an unknown backend.
    """
    check_tensors(q, k, k, log_decay, None, None)
    check_mask(q.shape[1], k.shape[1], window, None, True, [])
    check_alike({"q": q, "x": x}, wide={"gate": gate, "earlier": earlier})
    batch, steps, heads, width = q.shape
    check_shape("x", x, "BTHV", (batch, steps, heads, None))
    check_shape("gate", gate, "BTH", (batch, steps, heads))
    before = k.shape[1] - steps
    if earlier is None and before:
        raise ValueError(f"k has {before} positions before q, whose z is missing; expected earlier [B, {before}, H, V]")
    if earlier is None:
        earlier = x[:, :0]
    elif before:
        check_shape("earlier", earlier, "BPHV", (batch, before, heads, x.shape[-1]))
    factor = width**-0.5 if scale is None else scale
    match backend:
        case "chunked":
            return _by_blocks(q, k, x, gate, log_decay, earlier, window, factor).to(x.dtype)
        case "reference":
            check_decay_sign(log_decay)
            return _by_rows(q, k, x, gate, log_decay, earlier, window, factor).to(x.dtype)
        case _:
            raise unknown_backend(backend)


def _by_rows(
    q: Tensor,
    k: Tensor,
    x: Tensor,
    gate: Tensor,
    log_decay: Tensor | None,
    earlier: Tensor,
    window: int | None,
    scale: float,
) -> Tensor:
    """One row after another, of dense weights."""
    dtype = accumulator(q.dtype)
    rule = Rule(scale=scale, positions=PositionalMask(window=window))
    one_hot = torch.eye(k.shape[1], dtype=dtype, device=q.device)[None, :, None].expand(*k.shape[:3], -1)
    weights = reference.attention(q.to(dtype), k.to(dtype), one_hot, log_decay, None, None, None, rule)  # [B, T, H, S]
    known = list(earlier.to(dtype).unbind(1))
    for row, damp, now in zip(weights.unbind(1), gate.to(dtype).unbind(1), x.to(dtype).unbind(1), strict=True):
        first = 0 if window is None else max(0, len(known) - window + 1)
        if before := known[first:]:
            read = torch.einsum("bhs,bshv->bhv", row[..., first : len(known)], torch.stack(before, 1))
            now = now - damp.unsqueeze(-1) * read
        known.append(now)
    return torch.stack(known[k.shape[1] - q.shape[1] :], 1)


def _by_blocks(
    q: Tensor,
    k: Tensor,
    x: Tensor,
    gate: Tensor,
    log_decay: Tensor | None,
    earlier: Tensor,
    window: int | None,
    scale: float,
) -> Tensor:
    batch, _, heads, _ = q.shape
    dtype, repeats = accumulator(q.dtype), heads // k.shape[2]
    key = k.repeat_interleave(repeats, 2) if repeats > 1 else k
    query, key, value, known = (each.to(dtype).transpose(1, 2).flatten(0, 1) for each in (q * scale, key, x, earlier))
    damp = gate.to(dtype).transpose(1, 2).flatten(0, 1).unsqueeze(-1)
    # summed in float64: a block reads differences of it
    total = None if log_decay is None else log_decay.double().cumsum(1).transpose(1, 2).flatten(0, 1)
    z = _Resolvent.apply(query, key, value, damp, total, known, window)  # type: ignore[no-untyped-call]
    return torch.unflatten(z, 0, (batch, heads)).transpose(1, 2)


class _Block(NamedTuple):
    """Rows `start` to `stop` of T, and the columns of S that they see: from `low` to `own`, and their own to `end`."""

    start: int
    stop: int
    low: int
    own: int
    end: int


def _blocks(steps: int, sources: int, window: int | None) -> Iterator[_Block]:
    for start in range(0, steps, BLOCK):
        stop, own = min(start + BLOCK, steps), sources - steps + start
        low = 0 if window is None else max(0, own - window + 1)
        yield _Block(start, stop, low, own, sources - steps + stop)


def _weights(q: Tensor, k: Tensor, total: Tensor | None, window: int | None, at: _Block) -> Tensor:
    """Softmax weights of a block, [P, C, end - low], the token itself among them."""
    rows, columns = at.stop - at.start, at.end - at.low
    scores = q[:, at.start : at.stop] @ k[:, at.low : at.end].transpose(-1, -2)
    if total is not None:  # what depends on the row alone cancels in a softmax
        scores += (total[:, at.own, None] - total[:, at.low : at.end]).to(scores.dtype).unsqueeze(1)
    lag = torch.arange(columns - rows, columns, device=q.device).unsqueeze(1) - torch.arange(columns, device=q.device)
    hidden = lag < 0 if window is None else (lag < 0) | (lag >= window)
    return torch.softmax(scores.masked_fill_(hidden, -torch.inf), -1)


class _Resolvent(Function):
    """q [P, T, K] scaled, k [P, S, K], x [P, T, V], gate [P, T, 1], total [P, S] or None, earlier [P, S - T, V]."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        x: Tensor,
        gate: Tensor,
        total: Tensor | None,
        earlier: Tensor,
        window: int | None,
    ) -> Tensor:
        steps, sources = q.shape[1], k.shape[1]
        z, mixed = x.new_empty(len(x), sources, x.shape[-1]), torch.empty_like(x)
        z[:, : sources - steps] = earlier
        kept: list[Tensor] = []
        for at in _blocks(steps, sources, window):
            weights, rows = _weights(q, k, total, window, at), slice(at.start, at.stop)
            before, own = weights[..., : at.own - at.low], weights[..., at.own - at.low :]
            read = before @ z[:, at.low : at.own]
            damp = gate[:, rows]
            solved = torch.linalg.solve_triangular(
                own * damp, x[:, rows] - damp * read, upper=False, unitriangular=True
            )
            z[:, at.own : at.end] = solved
            mixed[:, rows] = torch.baddbmm(read, own.tril(-1), solved)
            kept.append(weights)
        if len(q) * steps * sources > KEPT_SCORES:
            kept.clear()
        ctx.save_for_backward(q, k, gate, total, z, mixed, *kept)
        ctx.window = window
        return z[:, sources - steps :]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_z: Tensor) -> tuple[Tensor | None, ...]:
        q, k, gate, total, z, mixed, *kept = ctx.saved_tensors
        steps, sources = q.shape[1], k.shape[1]
        d_q, d_k = torch.empty_like(q), torch.zeros_like(k)
        d_total = None if total is None else torch.zeros_like(total)
        given = torch.cat([torch.zeros_like(z[:, : sources - steps]), d_z], 1)  # dz, less what later rows gave
        for n, at in reversed(list(enumerate(_blocks(steps, sources, ctx.window)))):
            weights = kept[n] if kept else _weights(q, k, total, ctx.window, at)
            rows, split, damp = slice(at.start, at.stop), at.own - at.low, gate[:, at.start : at.stop]
            own = weights[..., split:]
            y = given[:, at.own : at.end]
            solved = torch.linalg.solve_triangular((own * damp).mT, y, upper=True, unitriangular=True)
            y.copy_(solved)
            damped = damp * solved
            given[:, at.low : at.own].baddbmm_(weights[..., :split].mT, damped, alpha=-1)
            slope = damped @ z[:, at.low : at.end].mT
            slope[..., split:].tril_(-1)
            d_scores = ((damped * mixed[:, rows]).sum(-1, keepdim=True) - slope).mul_(weights)
            torch.matmul(d_scores, k[:, at.low : at.end], out=d_q[:, rows])
            d_k[:, at.low : at.end].baddbmm_(d_scores.mT, q[:, rows])
            if d_total is not None:
                d_total[:, at.low : at.end] -= d_scores.sum(1)
        y = given[:, sources - steps :]
        d_gate = -(y * mixed).sum(-1, keepdim=True)
        return d_q, d_k, y, d_gate, d_total, given[:, : sources - steps], None
