"""The types of the algebra: what a term denotes, and the attribute that makes it valid where it stands.

Letters: B batch, T tokens, H heads, K key width, V value width, D model width. A type is a sort (stream, feature, ...)
together with the one attribute that typing needs (positive, unit, normalised, ...); the union is closed, so the grammar
that sampling counts over follows from the signatures alone.
"""

from enum import Enum


class Type(Enum):
    """One member per type; the value is how errors and documentation name it."""

    STREAM = "stream"  # [B, T, D]
    FEATURE = "feature"  # [B, T, H, K]
    POSITIVE_FEATURE = "positive feature"  # every entry >= 0
    UNIT_FEATURE = "unit feature"  # every row has l2 norm 1
    VALUE = "value"  # [B, T, H, V], no token has seen another through a kernel
    MIXED = "mixed value"  # a kernel stands on the path
    GATE = "gate in (0,1)"  # [B, T, H]
    DOUBLE_GATE = "gate in (0,2)"
    STEP = "positive step"
    HEAD_DECAY = "log decay per head"  # [B, T, H], <= 0
    CHANNEL_DECAY = "log decay per channel"  # [B, T, H, K], <= 0
    SCORE = "score"  # [B, H, T, T], only entries s <= t are ever read
    POSITIVE_SCORE = "positive score"
    GRAM = "gram score"  # beta_t <k_t, k_s>, beta in (0,1), unit keys: (I + strict)^-1 is bounded
    DOUBLE_GRAM = "gram score with beta in (0,2)"
    KERNEL = "kernel"  # causal [B, H, T, T]
    POSITIVE_KERNEL = "positive kernel"
    NORMALISED_KERNEL = "normalised kernel"  # rows sum to one
    CONTRACTION = "contraction"  # its resolvent is bounded
    FILTER = "filter"  # [H, V, T]
    MIXER = "mixer"  # [B, T, D] -> [B, T, D], mixes tokens
    CHANNEL = "channel mixer"  # [B, T, D] -> [B, T, D], token by token
    BLOCK = "block"
    STACK = "stack"  # a whole architecture

    # Members are compared by identity; the default hash of an Enum hashes its name at every dictionary look-up.
    __hash__ = object.__hash__


FEATURES = (Type.FEATURE, Type.POSITIVE_FEATURE, Type.UNIT_FEATURE)
VALUES = (Type.VALUE, Type.MIXED)
GATES = (Type.GATE, Type.DOUBLE_GATE, Type.STEP)
DECAYS = (Type.HEAD_DECAY, Type.CHANNEL_DECAY)
SCORES = (Type.SCORE, Type.POSITIVE_SCORE, Type.GRAM, Type.DOUBLE_GRAM)
KERNELS = (Type.KERNEL, Type.POSITIVE_KERNEL, Type.NORMALISED_KERNEL, Type.CONTRACTION)

SHAREABLE = frozenset((Type.STREAM, *FEATURES, Type.VALUE, *GATES, *DECAYS))
"""Types that a `let` may bind."""

LET_PREFIX = {
    **dict.fromkeys((Type.STREAM,), "s"),
    **dict.fromkeys(FEATURES, "k"),
    **dict.fromkeys(VALUES, "v"),
    **dict.fromkeys(GATES, "b"),
    **dict.fromkeys(DECAYS, "g"),
}
"""First letter of a canonical `let` name."""
