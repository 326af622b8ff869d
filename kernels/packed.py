"""Sequences of different lengths, one behind another in [1, T_total, ...], through any primitive.

`cu_seqlens` [N + 1] says where each begins and the last ends, 0 = c_0 <= c_1 <= .. <= c_N = T_total: the convention of
FlashAttention's variable lengths (Dao 2024, arXiv:2307.08691). The sequences are laid side by side with zeros behind,

    padded[n, t] = packed[c_n + t],    c_n + t < c_{n+1},

the primitive runs on that batch, and what it gives is laid one behind another again. Zeros behind a sequence change no
output of a causal primitive. They change no state that is a sum: a step with k = 0 writes nothing, one with a log decay
(or a step of the selective scan) of 0 forgets nothing. A state that is the last inputs (short_convolution, banded) is
read from the sequence itself.

Sequences within a factor of two of one another run together, unless all of them fit into one batch of at most twice
their steps. Milliseconds forward and backward of 4096 steps, delta rule with head decay, H 2, K 32, one thread, in one
batch / by length / each alone: 7 sequences of 64 to 1024 steps 35 / 34 / 23; 28 of 1 to 2048, as many of each
magnitude, 219 / 35 / 69; one of 2048 and 54 of 16 to 64, 552 / 23 / 67.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from archloom.kernels.table import last_input

__all__ = ["packed"]

Primitive = Callable[..., Tensor | tuple[Tensor, Tensor]]

UNPACKED = ("mask", "bias", "history", "initial_state")
"""Tensors that cannot be bound: their axes are those of one sequence, or of the batch that is made here."""


def packed(
    primitive: Primitive,
    tensors: Mapping[str, Tensor],
    *,
    cu_seqlens: Tensor,
    initial_state: Tensor | None = None,
    most_padding: float = 2.0,
) -> Tensor | tuple[Tensor, Tensor]:
    """What the primitive gives for each sequence alone, packed as its inputs are.

        packed(partial(linear_attention, return_state=True), {"q": q, "k": k, "v": v}, cu_seqlens=cu_seqlens)

    Args:
        primitive: a primitive, its other arguments bound by `functools.partial`; or any function that is causal, whose
            state is unchanged by steps of zeros, and that takes `tensors` by name.
        tensors: every argument with a time axis, each [1, T_total, ...]; they reach the primitive as [N, T_max, ...].
        cu_seqlens: [N + 1] of int32 or int64. Its values are read, for which a GPU waits; on the CPU it costs nothing.
        initial_state: [N, ...], one for each sequence, for the argument of that name.
        most_padding: steps that run over steps that are given, at most; at 1 only sequences of equal length run
            together, nothing is padded, and what is not causal is served too.

    Returns:
        The output [1, T_total, ...]; with a primitive that returns its state, the pair of it and the states [N, ...].
        That of an empty sequence is its initial state, or zeros.

    Raises:
        ValueError: for cu_seqlens, tensors or an initial state that do not fit, a bound mask, bias, history or initial
            state, and causal=False where there is padding. And what the primitive itself raises.
    """
    lengths = _checked_lengths(cu_seqlens, tensors)
    if initial_state is not None and initial_state.shape[:1] != (len(lengths),):
        raise ValueError(
            f"initial_state has shape {tuple(initial_state.shape)}; expected a first axis of {len(lengths)} sequences"
        )
    groups = _groups(lengths, most_padding)
    _check_bound(primitive, any(lengths[group[0]] != lengths[each] for group in groups for each in group))
    device = next(iter(tensors.values())).device
    layouts = [_Layout.of(group, lengths, device) for group in groups]
    outputs, states = zip(*(_run(primitive, tensors, initial_state, layout) for layout in layouts), strict=True)
    out = torch.cat(outputs)
    if len(layouts) > 1:  # one layout keeps the order
        order = torch.cat([layout.tokens for layout in layouts])
        out = out.index_select(0, order.argsort())
    found = [state for state in states if state is not None]
    if not found:
        return out.unsqueeze(0)
    last = torch.cat(found)
    start = last.new_zeros(len(lengths), *last.shape[1:]) if initial_state is None else initial_state.to(last.dtype)
    return out.unsqueeze(0), start.index_copy(0, torch.cat([layout.sequences for layout in layouts]), last)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """Where the steps of some sequences lie: `tokens` [t] in the packed tensors, `slots` [t] in [n T]."""

    sequences: Tensor
    lengths: Tensor
    tokens: Tensor
    slots: Tensor
    longest: int

    @classmethod
    def of(cls, group: Sequence[int], lengths: Sequence[int], device: torch.device) -> "_Layout":
        sizes = torch.tensor([lengths[each] for each in group])
        begins = (torch.tensor(lengths).cumsum(0) - torch.tensor(lengths))[list(group)]
        before = sizes.cumsum(0) - sizes  # steps of the group that come before each of its sequences
        longest, total = int(sizes.max()), int(sizes.sum())
        shifts = torch.stack([begins - before, torch.arange(len(group)) * longest - before])
        spread = shifts.to(device).repeat_interleave(sizes.to(device), 1, output_size=total)
        tokens, slots = spread + torch.arange(total, device=device)
        return cls(
            sequences=torch.tensor(group, device=device),
            lengths=sizes.to(device),
            tokens=tokens,
            slots=slots,
            longest=longest,
        )

    def pad(self, x: Tensor) -> Tensor:
        """[1, T_total, ...] -> [n, T, ...]."""
        count, rest = len(self.sequences), x.shape[2:]
        empty = x.new_zeros(count * self.longest, *rest)
        return empty.index_copy(0, self.slots, x[0].index_select(0, self.tokens)).view(count, self.longest, *rest)

    def unpad(self, x: Tensor) -> Tensor:
        """[n, T, ...] -> [t, ...]."""
        return x.flatten(0, 1).index_select(0, self.slots)

    def last(self, x: Tensor, earlier: Tensor) -> Tensor:
        """The last W - 1 inputs of each sequence, [n, W - 1, ...], of those in `earlier` [n, W - 1, ...] and x."""
        count, kept = earlier.shape[:2]
        rows = self.lengths.unsqueeze(1) + torch.arange(kept, device=x.device)
        return torch.cat([earlier, x], 1)[torch.arange(count, device=x.device).unsqueeze(1), rows]


def _run(
    primitive: Primitive, tensors: Mapping[str, Tensor], initial_state: Tensor | None, layout: _Layout
) -> tuple[Tensor, Tensor | None]:
    """Output [t, ...] and states [n, ...] of the sequences of one layout."""
    given = {name: layout.pad(tensor) for name, tensor in tensors.items()}
    start = None if initial_state is None else initial_state.index_select(0, layout.sequences)
    result = primitive(**given) if start is None else primitive(**given, initial_state=start)
    if isinstance(result, Tensor):
        return layout.unpad(result), None
    out, state = result
    kept = last_input(primitive.func if isinstance(primitive, partial) else primitive)
    if kept is not None:
        state = layout.last(given[kept], torch.zeros_like(state) if start is None else start)
    return layout.unpad(out), state


def _groups(lengths: Sequence[int], most_padding: float) -> list[list[int]]:
    """Numbers of the sequences that run together, each group in order; empty sequences are in none."""
    if most_padding < 1:
        raise ValueError(f"most_padding is {most_padding}; expected at least 1, which pads nothing")
    present = [number for number, length in enumerate(lengths) if length]
    if len(present) * max(lengths) <= most_padding * sum(lengths):
        return [present]
    groups: list[list[int]] = []
    for number in sorted(present, key=lambda each: -lengths[each]):
        if groups and lengths[groups[-1][0]] <= most_padding * lengths[number]:
            groups[-1].append(number)
        else:
            groups.append([number])
    return [sorted(group) for group in groups]


def _checked_lengths(cu_seqlens: Tensor, tensors: Mapping[str, Tensor]) -> list[int]:
    """The length of every sequence."""
    if cu_seqlens.dtype not in (torch.int32, torch.int64) or cu_seqlens.dim() != 1 or len(cu_seqlens) < 2:
        given = f"{cu_seqlens.dtype} of shape {tuple(cu_seqlens.shape)}"
        raise ValueError(f"cu_seqlens is {given}; expected torch.int32 or torch.int64 of shape [N + 1] with N >= 1")
    bounds: list[int] = cu_seqlens.tolist()
    if bounds[0] != 0:
        raise ValueError(f"cu_seqlens begins with {bounds[0]}; expected 0, where the first sequence begins")
    lengths = [end - begin for begin, end in pairwise(bounds)]
    if min(lengths) < 0:
        number = next(number for number, length in enumerate(lengths) if length < 0)
        fall = f"from {bounds[number]} to {bounds[number + 1]} at entry {number + 1}"
        raise ValueError(f"cu_seqlens falls {fall}; expected every sequence to begin where the one before it ends")
    if not tensors:
        raise ValueError("tensors is empty; expected the arguments with a time axis by name, each [1, T_total, ...]")
    for name, tensor in tensors.items():
        if tensor.shape[:2] != (1, bounds[-1]):
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}; expected [1, T_total, ...] with the T_total = {bounds[-1]} in"
                " which cu_seqlens ends"
            )
    if bounds[-1] == 0:
        raise ValueError("cu_seqlens ends in 0: there is no token to run on")
    return lengths


def _check_bound(primitive: Primitive, padded: bool) -> None:
    if not isinstance(primitive, partial):
        return
    for name in UNPACKED:
        bound = primitive.keywords.get(name)
        if isinstance(bound, Tensor) and bound.dim() > 1:  # a bias [C] belongs to channels
            instead = "give it to packed itself" if name == "initial_state" else "packed sequences do not support it"
            raise ValueError(f"{name} is bound to the primitive; {instead}")
    if padded and primitive.keywords.get("causal") is False:
        raise ValueError(
            "causal=False would let queries see the zeros behind shorter sequences; give most_padding=1, so that only"
            " sequences of equal length run together"
        )
