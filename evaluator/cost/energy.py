"""Joules, where the machine tells: a GPU's power draw, or the counters of a processor's packages.

`meter_for` gives None where neither can be read (no rights, a virtual machine, no driver library): energy is then
absent, and never zero. Both meters see all that the device does meanwhile, idling and other processes included.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Protocol

import torch

POWERCAP = Path("/sys/class/powercap")
SECONDS = 0.5
"""How long a piece of work is repeated: the counters of processors move once a millisecond, a GPU's power slower."""


class Meter(Protocol):
    """Measures what happens between `start` and `joules`."""

    @property
    def method(self) -> str: ...

    def start(self) -> None: ...

    def sample(self) -> None:
        """Called between repeats, for meters that read a power and no counter."""

    def joules(self) -> float: ...


def meter_for(device: torch.device, *, powercap: Path = POWERCAP) -> Meter | None:
    """A meter of the device, or None where it cannot be read."""
    if device.type == "cuda":
        return _power_meter(device)
    domains = _packages(powercap)
    return PackageCounters(domains=domains) if domains else None


def energy_of(run: Callable[[], object], *, meter: Meter, device: torch.device, seconds: float = SECONDS) -> float:
    """Joules of one call of `run`: the mean over as many as take `seconds`."""
    run()
    _settle(device)
    meter.start()
    end, runs = time.perf_counter() + seconds, 0
    while not runs or time.perf_counter() < end:
        run()
        _settle(device)
        meter.sample()
        runs += 1
    return meter.joules() / runs


@dataclass(frozen=True, slots=True)
class Domain:
    """A package's counter in microjoules, which starts again at `wraps_at`."""

    counter: Path
    wraps_at: int

    def read(self) -> int:
        return int(self.counter.read_text())


class PackageCounters:
    """RAPL, as Linux shows it: the sum over all processor packages."""

    method = "RAPL counters of all packages, mean of repeats"

    def __init__(self, *, domains: tuple[Domain, ...]) -> None:
        self._domains = domains
        self._last: list[int] = []
        self._total = 0

    def start(self) -> None:
        self._last = [each.read() for each in self._domains]
        self._total = 0

    def sample(self) -> None:
        now = [each.read() for each in self._domains]
        for domain, before, after in zip(self._domains, self._last, now, strict=True):
            self._total += after - before if after >= before else after - before + domain.wraps_at
        self._last = now

    def joules(self) -> float:
        self.sample()
        return self._total / 1e6


class PowerSamples:
    """Mean of the watts read between repeats, times the seconds."""

    method = "torch.cuda.power_draw between repeats, times seconds"

    def __init__(self, *, watts: Callable[[], float]) -> None:
        self._watts = watts
        self._samples: list[float] = []
        self._started = 0.0

    def start(self) -> None:
        self._samples, self._started = [], time.perf_counter()

    def sample(self) -> None:
        self._samples.append(self._watts())

    def joules(self) -> float:
        return fmean(self._samples) * (time.perf_counter() - self._started)


def _packages(powercap: Path) -> tuple[Domain, ...]:
    """The domains of whole packages (`intel-rapl:0`, not its parts `intel-rapl:0:1`) that can be read."""
    found = []
    for folder in sorted(powercap.glob("intel-rapl:*")):
        if folder.name.count(":") != 1:
            continue
        try:
            domain = Domain(folder / "energy_uj", int((folder / "max_energy_range_uj").read_text()))
            domain.read()
        except (OSError, ValueError):
            return ()
        found.append(domain)
    return tuple(found)


def _power_meter(device: torch.device) -> Meter | None:
    try:
        torch.cuda.power_draw(device)
    except (ImportError, RuntimeError):  # no library of the driver, or no answer from it
        return None
    return PowerSamples(watts=lambda: torch.cuda.power_draw(device) / 1000)


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
