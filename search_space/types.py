"""The types of the algebra: what a term denotes, and the attribute that makes it valid where it stands.

Letters: B batch, T tokens, H heads, K key width, V value width, D model width, N slots. A type is a sort (stream,
feature, ...) together with the one attribute that typing needs (positive, unit, normalised, ...); the union is closed,
so the grammar that sampling counts over follows from the signatures alone.
"""

from enum import Enum


class Type(Enum):
    """One member per type; the value is how errors and documentation name it."""

    STREAM = "stream"  # [B, T, D]
    LATENT = "latent stream"  # [B, T, R], narrower than D
    FEATURE = "feature"  # [B, T, H, K]
    POSITIVE_FEATURE = "positive feature"  # every entry >= 0
    FRACTION = "feature in (0,1)"
    UNIT_FEATURE = "unit feature"  # every row has l2 norm 1
    VALUE = "value"  # [B, T, H, V], no token has seen another through a kernel
    MIXED = "mixed value"  # a kernel stands on the path
    GATE = "gate in (0,1)"  # [B, T, H]
    DOUBLE_GATE = "gate in (0,2)"
    STEP = "positive step"
    STEP_CHANNELS = "positive step per value channel"  # [B, T, H, V]
    ANGLE = "rotation rate"  # [B, T, H], in (0,1)
    ROUTE = "route"  # [B, T, N], the weights of the slots that a token uses, zero elsewhere
    HEAD_DECAY = "log decay per head"  # [B, T, H], <= 0
    CHANNEL_DECAY = "log decay per channel"  # [B, T, H, K], <= 0
    VISIBLE = "mask of all that is visible"  # masks: [T, S], every token sees itself
    BAND = "mask of a contiguous range"
    MASK = "mask"
    SCORE = "score"  # [B, H, T, S]; entries that a mask hides are never read
    POSITIVE_SCORE = "positive score"
    GRAM = "gram score"  # beta_t <k_t, k_s>, beta in (0,1), unit keys: (I + strict)^-1 is bounded
    DOUBLE_GRAM = "gram score with beta in (0,2)"
    KERNEL = "kernel"  # masked [B, H, T, S]
    POSITIVE_KERNEL = "positive kernel"
    NORMALISED_KERNEL = "normalised kernel"  # rows of nonnegative entries sum to one or less
    CONTRACTION = "contraction"  # its resolvent is bounded
    FILTER = "filter"  # [H, V, T]
    SPECTRUM = "spectrum"  # [B, H, V, T // 2 + 1], a filter by its frequencies that depends on the input
    MIXER = "mixer"  # [B, T, D] -> [B, T, D], mixes tokens
    CHANNEL = "channel mixer"  # [B, T, D] -> [B, T, D], token by token
    BLOCK = "block"
    STACK = "stack"  # a whole architecture

    # Members are compared by identity; the default hash of an Enum hashes its name at every dictionary look-up.
    __hash__ = object.__hash__


POSITIVE = (Type.POSITIVE_FEATURE, Type.FRACTION)
FEATURES = (Type.FEATURE, *POSITIVE, Type.UNIT_FEATURE)
VALUES = (Type.VALUE, Type.MIXED)
GATES = (Type.GATE, Type.DOUBLE_GATE, Type.STEP)
DECAYS = (Type.HEAD_DECAY, Type.CHANNEL_DECAY)
MASKS = (Type.VISIBLE, Type.BAND, Type.MASK)
SCORES = (Type.SCORE, Type.POSITIVE_SCORE, Type.GRAM, Type.DOUBLE_GRAM)
KERNELS = (Type.KERNEL, Type.POSITIVE_KERNEL, Type.NORMALISED_KERNEL, Type.CONTRACTION)
PER_HEAD = (*GATES, Type.STEP_CHANNELS, Type.ANGLE, *DECAYS)
"""Types with one entry, row or matrix for every head of the mixer."""

SHAREABLE = frozenset((Type.STREAM, Type.LATENT, *FEATURES, Type.VALUE, Type.ROUTE, *PER_HEAD))
"""Types that a `let` may bind."""

LET_PREFIX = {
    **dict.fromkeys((Type.STREAM, Type.LATENT), "s"),
    **dict.fromkeys(FEATURES, "k"),
    **dict.fromkeys(VALUES, "v"),
    **dict.fromkeys((*GATES, Type.STEP_CHANNELS, Type.ROUTE), "b"),
    **dict.fromkeys((*DECAYS, Type.ANGLE), "g"),
}
"""First letter of a canonical `let` name."""
