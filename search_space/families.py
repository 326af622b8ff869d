"""Families of architectures, by how their kernels are applied: a protocol may train each at rates of its own."""

from archloom.search_space.operations import FAMILIES
from archloom.search_space.plans import Form, plan
from archloom.search_space.terms import Term, walk

ATTENTION, RECURRENCE, CONVOLUTION, POINTWISE = "attention", "recurrence", "convolution", "pointwise"
ALL = (ATTENTION, RECURRENCE, CONVOLUTION, POINTWISE)

_OF_FORM = {
    Form.LINEAR: RECURRENCE,
    Form.WINDOWED: RECURRENCE,
    Form.SOFTMAX: ATTENTION,
    Form.SCORES: ATTENTION,
    Form.DENSE: ATTENTION,
    Form.TOEPLITZ: CONVOLUTION,
    Form.FEATURE_TOEPLITZ: CONVOLUTION,
    Form.CIRCULAR: CONVOLUTION,
    Form.TAPS: CONVOLUTION,
}

_STATES = frozenset(each for each in FAMILIES["recurrences"] if each.name in ("scan", "erase", "resonance"))
"""Recurrences that no kernel expresses."""


def family(architecture: Term) -> str:
    """The first of `ALL` that any mixer of the architecture belongs to: a hybrid with attention counts as attention.

    Kernels that are written out over all pairs of tokens count as attention, states of any kind as recurrence, filters
    and taps as convolution; what mixes no tokens, or only neighbours by a short convolution, is pointwise.
    """
    found = set()
    for node in walk(architecture):
        if node.operation.name in ("apply", "resolve"):
            found.add(_OF_FORM[plan(node.arguments[0]).form])
        elif node.operation in _STATES:
            found.add(RECURRENCE)
    return next((each for each in ALL if each in found), POINTWISE)
