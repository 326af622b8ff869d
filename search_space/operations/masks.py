"""Masks: which of the visible tokens a token looks at. Every token sees itself, so no row is ever empty.

The equations give the causal form. Where causality is not asked a range reaches to both sides; across sequences only
`visible` has a meaning.
"""

from archloom.search_space.operations.row import Operation, choice
from archloom.search_space.patterns import SELF
from archloom.search_space.types import MASKS, Type

MASK_OPERATIONS = (
    Operation(
        name="visible",
        rows=(((), Type.VISIBLE),),
        summary="every token that the pattern lets this one see",
        equation=r"[s \le t]",
        weight=6.0,
    ),
    Operation(
        name="window",
        rows=(((), Type.BAND),),
        parameters=(choice("width", 4, 8, 16, 32, default=16),),
        summary="this token and the `width` - 1 before it",
        equation=r"[0 \le t - s < w]",
        weight=1.5,
        patterns=SELF,
    ),
    Operation(
        name="chunk",
        rows=(((), Type.BAND),),
        parameters=(choice("size", 4, 8, 16, 32, default=16),),
        summary="the tokens of the same chunk of `size`",
        equation=r"[\lfloor t/b \rfloor = \lfloor s/b \rfloor]",
        weight=0.5,
        patterns=SELF,
    ),
    Operation(
        name="across",
        rows=(((), Type.MASK),),
        parameters=(choice("size", 4, 8, 16, 32, default=16),),
        summary="the tokens of other chunks of `size`, and itself",
        equation=r"[\lfloor t/b \rfloor \ne \lfloor s/b \rfloor \lor s = t]",
        weight=0.1,
        patterns=SELF,
    ),
    Operation(
        name="dilated",
        rows=(((), Type.MASK),),
        parameters=(choice("width", 4, 8, 16, default=8), choice("dilation", 2, 3, 4)),
        summary="`width` tokens, each `dilation` apart",
        equation=r"[t - s \in \{0, d, 2 \cdot d, \ldots\},\, t - s < w \cdot d]",
        weight=0.3,
        patterns=SELF,
    ),
    Operation(
        name="first",
        rows=(((), Type.MASK),),
        parameters=(choice("count", 2, 4, 8, default=4),),
        summary="the first `count` tokens, and itself: a prefix, sinks, global tokens",
        equation=r"[s < n \lor s = t]",
        weight=0.3,
        patterns=SELF,
    ),
    Operation(
        name="strided",
        rows=(((), Type.MASK),),
        parameters=(choice("stride", 2, 4, 8, default=4),),
        summary="the last token of every `stride`, and itself",
        equation=r"[(s + 1) \,\mathrm{mod}\, n = 0 \lor s = t]",
        weight=0.3,
        patterns=SELF,
    ),
    Operation(
        name="random",
        rows=(((), Type.MASK),),
        parameters=(choice("one_in", 2, 4, 8, default=4),),
        summary="each pair of tokens with chance 1/`one_in`, fixed for ever by their positions; and itself",
        equation=r"[\mathrm{hash}(t, s) < 1/n \lor s = t]",
        weight=0.2,
        patterns=SELF,
    ),
    Operation(
        name="blind",
        rows=(((), Type.MASK),),
        parameters=(choice("prefix", 2, 4, 8, default=4),),
        summary="tokens of a prefix see only themselves, later ones everything",
        equation=r"[t \ge n \lor s = t]",
        weight=0.1,
        patterns=SELF,
    ),
    Operation(
        name="either",
        rows=tuple(((a, b), Type.MASK) for a in MASKS for b in MASKS),
        summary="what one of two masks shows",
        equation=r"{0}_{ts} \lor {1}_{ts}",
        commutative=True,
        weight=0.2,
    ),
    Operation(
        name="both",
        rows=tuple(((a, b), Type.MASK) for a in MASKS for b in MASKS),
        summary="what each of two masks shows",
        equation=r"{0}_{ts} \land {1}_{ts}",
        commutative=True,
        weight=0.1,
    ),
)
