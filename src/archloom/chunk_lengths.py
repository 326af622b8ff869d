"""Which chunk length suits this device: candidates timed beside the default, the better ones kept in a small file.

The file is `chunk_lengths.json` in archloom's folder of the user cache, by device and version of PyTorch. Kernels do
not read it: the length of a chunk decides in which order sums are rounded, and what a campaign records must not hang on
a file beside it. It is for a person who passes `chunk=`, or who mends the default.
"""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from archloom.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

CANDIDATES = (16, 32, 64, 128)
SIZES = ("32x64x2x32", "8x512x2x32")
ROUNDS = 7
GAIN = 1.1
"""How many times as fast as the default a candidate must be to be called better; less is what a machine varies by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """B sequences of T steps, H heads, K = V channels."""

    batch: int
    steps: int
    heads: int
    width: int

    def __str__(self) -> str:
        return f"{self.batch}x{self.steps}x{self.heads}x{self.width}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Milliseconds of a primitive forward and backward, the best at its default chunk length and at the fastest other.

    `gain` is how many times as fast that one was in the middle one of the rounds; `better` is its length if that, and
    what the best of both say, is at least `GAIN`.
    """

    primitive: str
    decay: str
    size: str
    default: float
    fastest: float
    chunk: int
    gain: float

    @property
    def better(self) -> int | None:
        return self.chunk if min(self.gain, self.default / self.fastest) >= GAIN else None


def parse_size(text: str) -> Size:
    """From BxTxHxK. Errors: `ConfigError`."""
    try:
        batch, steps, heads, width = map(int, text.split("x"))
    except ValueError:
        raise ConfigError(_wrong_size(text)) from None
    if min(batch, steps, heads, width) < 1:
        raise ConfigError(_wrong_size(text))
    return Size(batch=batch, steps=steps, heads=heads, width=width)


def _wrong_size(text: str) -> str:
    return f"the size is {text!r}; expected BxTxHxK, four whole numbers of at least 1\n  → --size {SIZES[-1]}"


def measure(sizes: Sequence[Size], *, rounds: int = ROUNDS) -> tuple[Timing, ...]:
    """Time every primitive that has chunks, on the GPU if there is one, in float32; a few seconds for each size."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as workers do
    try:
        return tuple(
            _timing(name, decay, size, step, rounds) for size in sizes for name, decay, step in _steps(size, device)
        )
    finally:
        torch.set_num_threads(threads)


def _steps(size: Size, device: str) -> Sequence[tuple[str, str, Callable[[int | None], float]]]:
    """Primitive, granularity of its decay, and a function that gives the seconds of one run at a chunk length."""
    import torch
    from torch.nn.functional import normalize

    from archloom.kernels.linear_attention import linear_attention
    from archloom.kernels.resolvent import delta_rule, resolvent

    generator, shape = torch.Generator().manual_seed(0), (size.batch, size.steps, size.heads)

    def leaf(*width: int, decays: bool = False) -> "Tensor":
        drawn = torch.rand(*shape, *width, generator=generator)
        return (-drawn if decays else drawn - 0.5).to(device).requires_grad_()

    q, v = leaf(size.width), leaf(size.width)
    k = normalize(leaf(size.width).detach(), dim=-1).requires_grad_()
    b = (k.detach() / 2).requires_grad_()
    found: list[tuple[str, str, Callable[[int | None], float]]] = []
    for decay, log_decay in (("none", None), ("head", leaf(decays=True)), ("channel", leaf(size.width, decays=True))):
        extra = [] if log_decay is None else [log_decay]
        calls: Mapping[str, tuple[Callable[..., object], list[Tensor]]] = {
            "linear_attention": (partial(linear_attention, q, k, v, log_decay=log_decay), [q, k, v]),
            "resolvent": (partial(resolvent, b, k, v, log_decay=log_decay), [b, k, v]),
            "delta_rule": (partial(delta_rule, q, b, k, v, log_decay=log_decay), [q, b, k, v]),
        }
        found += [(name, decay, partial(_seconds, call, [*given, *extra])) for name, (call, given) in calls.items()]
    return found


def _seconds(call: Callable[..., object], inputs: "Sequence[Tensor]", chunk: int | None) -> float:
    import torch

    on_gpu = inputs[0].is_cuda
    if on_gpu:
        torch.cuda.synchronize()
    start = time.perf_counter()
    out = call(chunk=chunk)
    assert isinstance(out, torch.Tensor)
    torch.autograd.grad(out.sum(), inputs)
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _timing(name: str, decay: str, size: Size, step: Callable[[int | None], float], rounds: int) -> Timing:
    """A few rounds of all lengths in turn, so that a busy moment does not fall on one alone, after one to warm up."""
    lengths = (None, *(each for each in CANDIDATES if each <= max(size.steps, CANDIDATES[0])))
    turns = [{length: 1e3 * step(length) for length in lengths} for _ in range(rounds + 1)][1:]
    best = {length: min(turn[length] for turn in turns) for length in lengths}
    chunk = min((each for each in lengths if each is not None), key=lambda each: best[each])
    gain = median(turn[None] / turn[chunk] for turn in turns)
    return Timing(
        primitive=name,
        decay=decay,
        size=str(size),
        default=best[None],
        fastest=best[chunk],
        chunk=chunk,
        gain=gain,
    )


def this_device() -> str:
    """The device and the version of PyTorch, as the file names them."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else torch.backends.cpu.get_cpu_capability()
    return f"{device}, torch {torch.__version__}"


def cache_file() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "archloom" / "chunk_lengths.json"


def keep(timings: Sequence[Timing], device: str, path: Path) -> None:
    """Write the better lengths of this device; what is known of others and of other sizes stays."""
    known = recall(path)
    of_device = known.setdefault(device, {})
    for each in timings:
        name = f"{each.primitive}, {each.decay}, {each.size}"
        of_device.pop(name, None)
        if each.better is not None:
            of_device[name] = each.better
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(f".{os.getpid()}")
    scratch.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")
    scratch.replace(path)


def recall(path: Path) -> dict[str, dict[str, int]]:
    """What the file holds, by device and then by primitive, decay and size; nothing if there is none."""
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) and all(isinstance(each, dict) for each in known.values()) else {}
