"""Memory as a fault: a limit on what a trial may allocate, and telling that it was reached.

The limit is Linux's on the data of a process (`RLIMIT_DATA`: its heap and its private writable mappings). It is not the
one on its addresses, which counts libraries that are mapped and never touched. Other systems set it and do not keep it.
"""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

GIB = 1 << 30
VMSTAT = Path("/proc/vmstat")

REFUSALS = ("can't allocate memory", "cannot allocate memory", "std::bad_alloc", "not enough memory")
"""What torch and the C++ library say, in small letters, when an allocation is refused; torch raises a bare
`RuntimeError` for it on the CPU."""


@contextmanager
def limited(gib: float) -> Iterator[None]:
    """Let this process, its libraries' data included, hold `gib` GiB inside; what asks for more is refused.

    The limit is lifted before an exception leaves, so that there is memory to say what went wrong. A process forked
    inside has the same limit for itself.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = round(gib * GIB)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def is_refusal(error: BaseException) -> bool:
    """Whether an exception says that memory, of the processor or of a GPU, was refused."""
    torch = sys.modules.get("torch")  # an error of torch's comes only from a process that has loaded it
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in REFUSALS)


def oom_kills() -> int:
    """Processes that this machine's kernel has killed for want of memory since it began; 0 where it does not say."""
    try:
        lines = VMSTAT.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
