"""Nonlinear operations of a model, by kind, counted while it runs: what a private inference pays for.

`count_nonlinear` runs the model once and sees, operation by operation, which elements depend on the input and what
becomes of them. Counted is what the lowered form executes on them, by the kinds of `private.RECIPES`. Free are matrix
products and solves, sums, anything made of weights or positions alone, entries that a mask by position hides (their
logit is -inf), full reductions by which a backend chooses a path, and looking up by a secret index. A tensor is secret
as a whole: a column of ones beside secret values counts as they do.
"""

import math
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def count_nonlinear(run: Callable[[Tensor], object], stream: Tensor) -> dict[str, int]:
    """How many operations of each kind `run(stream)` applies to what depends on `stream`, kinds as in `RECIPES`."""
    tracing = Tracing(stream)
    with torch.no_grad(), tracing:
        run(stream)
    return {kind: number for kind, number in sorted(tracing.counts.items()) if number}


class Tracing(TorchDispatchMode):
    """Sees every tensor operation; a tensor is secret if its storage was ever written with something secret.

    `counts` are the operations by kind, `unknown` the names of those that were neither counted nor known to be free.
    """

    def __init__(self, secret: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()
        self.unknown: set[str] = set()
        self._secrets: set[int] = set()
        self._mark(secret)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        secret = any(map(self.secret, given))
        name = func._overloadpacket.__name__
        name = name if name in COUNTED else name.rstrip("_")
        masked = _masked(args[0]) if secret and name in COUNTED else 0  # before it is overwritten
        outputs = func(*args, **(kwargs or {}))
        if not secret or name in PUBLIC:
            return outputs
        for each in tree_leaves(outputs):
            if isinstance(each, Tensor):
                self._mark(each)
        if name in COUNTED:
            self.counts.update(COUNTED[name](_Call(args, kwargs or {}, outputs, masked, self.secret)))
        elif name not in FREE and not func.is_view:
            self.unknown.add(name)
        return outputs

    def secret(self, x: object) -> bool:
        return isinstance(x, Tensor) and x.untyped_storage()._cdata in self._secrets

    def _mark(self, x: Tensor) -> None:
        storage = x.untyped_storage()
        if storage._cdata not in self._secrets:
            self._secrets.add(storage._cdata)
            weakref.finalize(storage, self._secrets.discard, storage._cdata)


@dataclass(frozen=True, slots=True)
class _Call:
    """One executed operation with a secret among its inputs; `masked` elements of its first were -inf."""

    args: Sequence[Any]
    named: Mapping[str, Any]
    outputs: Any
    masked: int
    secret: Callable[[object], bool]

    @property
    def elements(self) -> int:
        """Of the result."""
        first = self.outputs if isinstance(self.outputs, Tensor) else self.outputs[0]
        return int(first.numel())

    def option(self, place: int, name: str) -> Any:
        return self.args[place] if len(self.args) > place else self.named.get(name)


def _masked(x: object) -> int:
    return int((x == -torch.inf).sum()) if isinstance(x, Tensor) and x.is_floating_point() else 0


Counting = Callable[[_Call], Mapping[str, int]]


def _each(*kinds: str) -> Counting:
    """Every kind once for every element that is not -inf, which only a public mask makes."""

    def count(call: _Call) -> Mapping[str, int]:
        return dict.fromkeys(kinds, call.elements - call.masked)

    return count


def _if_both(first: int, second: int) -> Counting:
    """A product where both arguments are secret."""

    def count(call: _Call) -> Mapping[str, int]:
        both = all(len(call.args) > place and call.secret(call.args[place]) for place in (first, second))
        return {"product": call.elements if both else 0}

    return count


def _if_secret(place: int) -> Counting:
    """A product where one argument is secret, whatever the others are: it chooses between them."""

    def count(call: _Call) -> Mapping[str, int]:
        return {"product": call.elements if call.secret(call.args[place]) else 0}

    return count


def _quotient(call: _Call) -> Mapping[str, int]:
    """A division for each secret denominator, however many numerators share it."""
    numerator, denominator = call.args[:2]
    if not call.secret(denominator):
        return {}
    return {"division": int(denominator.numel()), "product": call.elements if call.secret(numerator) else 0}


def _clamp(call: _Call) -> Mapping[str, int]:
    bounds = sum(call.option(place, name) is not None for place, name in ((1, "min"), (2, "max")))
    return {"comparison": bounds * call.elements, "product": bounds * call.elements}


def _power(call: _Call) -> Mapping[str, int]:
    base, exponent = call.args[0], call.args[1]
    if isinstance(exponent, Tensor):
        return {"exponential": call.elements, "logarithm": call.elements if call.secret(base) else 0}
    if exponent == 0.5:
        return {"inverse_root": call.elements, "product": call.elements}
    if exponent == int(exponent):
        whole = abs(int(exponent))
        products = max(0, whole.bit_length() - 1 + whole.bit_count() - 1)
        return {"product": products * call.elements, "division": call.elements * (exponent < 0)}
    return {"exponential": call.elements, "logarithm": call.elements}


def _largest(call: _Call) -> Mapping[str, int]:
    """Along an axis; a reduction of everything to one number is a choice of the backend."""
    if len(call.args) < 2:
        return {}
    steps = int(call.args[0].numel()) - call.elements
    return {"comparison": steps, "product": steps}


def _running_largest(call: _Call) -> Mapping[str, int]:
    return {"comparison": call.elements, "product": call.elements}


def _sorting(axis: int) -> Counting:
    """A bitonic network of n / 4 log n (log n + 1) exchanges (Batcher 1968), each two products."""

    def count(call: _Call) -> Mapping[str, int]:
        x = call.args[0]
        size = x.shape[call.option(axis, "dim") if call.option(axis, "dim") is not None else -1]
        stages = math.ceil(math.log2(size)) if size > 1 else 0
        exchanges = math.ceil(int(x.numel()) / 4 * stages * (stages + 1))
        return {"comparison": exchanges, "product": 2 * exchanges}

    return count


def _softmax(shown: int, rows: int) -> Mapping[str, int]:
    """Of rows that are shown so many logits in all: largest, exponentials, one division a row, products with it."""
    return {
        "comparison": shown - rows,
        "exponential": shown,
        "division": rows,
        "product": (shown - rows) + shown,
    }


def _softmax_of_logits(call: _Call) -> Mapping[str, int]:
    logits, axis = call.args[0], call.args[1]
    seen = logits != -torch.inf
    return _softmax(int(seen.sum()), int(seen.any(axis).sum()))


def _fused_attention(call: _Call) -> Mapping[str, int]:
    query, key = call.args[0], call.args[1]
    *heads, steps, _ = query.shape
    sources, mask, causal = key.shape[-2], call.named.get("attn_mask"), call.option(4, "is_causal")
    seen = torch.ones(steps, sources, dtype=torch.bool)
    if causal:
        seen = seen.tril()
    if mask is not None:
        seen = mask if mask.dtype is torch.bool else mask != -torch.inf
    seen = seen.expand(*heads, steps, sources)
    return _softmax(int(seen.sum()), int(seen.any(-1).sum()))


def _pivots(call: _Call) -> Mapping[str, int]:
    """A division for each row of a solve; its products are left out like those of matrix products."""
    matrix = call.args[0]
    unit = call.named.get("unitriangular", False)
    return {"division": 0 if unit else int(matrix.shape[:-1].numel())}


COUNTED: Mapping[str, Counting] = {
    **dict.fromkeys(("exp", "expm1", "exp2"), _each("exponential")),
    **dict.fromkeys(("log", "log1p", "log2"), _each("logarithm")),
    **dict.fromkeys(("softplus", "log_sigmoid_forward", "logaddexp"), _each("exponential", "logarithm")),
    **dict.fromkeys(("sigmoid", "tanh"), _each("sigmoid")),
    **dict.fromkeys(("silu", "gelu"), _each("gated_sigmoid")),
    **dict.fromkeys(("relu", "leaky_relu"), _each("relu")),
    **dict.fromkeys(("sin", "cos"), _each("trigonometric")),
    **dict.fromkeys(("gt", "ge", "lt", "le", "eq", "ne", "round", "floor", "sign", "remainder"), _each("comparison")),
    **dict.fromkeys(("abs", "maximum", "minimum"), _each("comparison", "product")),
    **dict.fromkeys(("max", "min", "amax", "amin", "argmax"), _largest),
    "elu": _each("relu", "exponential"),
    "rsqrt": _each("inverse_root"),
    "sqrt": _each("inverse_root", "product"),
    "reciprocal": _each("division"),
    "div": _quotient,
    "mul": _if_both(0, 1),
    "addcmul": _if_both(1, 2),
    "lerp": _if_secret(2),
    "where": _if_secret(0),
    "masked_fill": _if_secret(1),
    "pow": _power,
    "clamp": _clamp,
    "cummax": _running_largest,
    "sort": _sorting(1),
    "topk": _sorting(2),
    "_softmax": _softmax_of_logits,
    "_safe_softmax": _softmax_of_logits,
    "_scaled_dot_product_flash_attention_for_cpu": _fused_attention,
    "_scaled_dot_product_flash_attention": _fused_attention,
    "_scaled_dot_product_efficient_attention": _fused_attention,
    "linalg_solve_triangular": _pivots,
    "_linalg_solve_ex": _pivots,
}
"""What an operation on secrets counts as, by its name in PyTorch."""

FREE = frozenset(
    (
        *("add", "sub", "rsub", "neg", "sum", "mean", "cumsum", "mm", "bmm", "addmm", "baddbmm", "convolution"),
        *("_fft_r2c", "_fft_c2r", "_fft_c2c", "cat", "stack", "clone", "copy", "_to_copy", "_unsafe_view", "fill"),
        *("constant_pad_nd", "flip", "roll", "repeat", "tril", "triu", "index", "index_select", "index_put", "gather"),
        *("scatter", "scatter_add", "floor_divide", "bitwise_and", "bitwise_or", "bitwise_not", "any", "all"),
        *("_local_scalar_dense", "_linalg_check_errors"),
    )
)
"""Linear in what is secret, or a matter of where elements stand."""

PUBLIC = frozenset(
    (
        *("zeros_like", "ones_like", "empty_like", "full_like", "new_zeros", "new_ones", "new_empty", "new_full"),
        "isneginf",
    )
)
"""Operations that take no more than a shape from a secret, or where a public mask stands."""
