"""The quickstart on each executor: wall time, what was trained, and the share of time that was not training.

    python tests/benchmarks/bench_campaign.py [ray] [process]

Prints for each: wall seconds, new candidates with a score on each rung, gates' and idle shares of the workers' time
after start-up, the control's verdict, and whether an exact replay of the best candidate is equal to the bit.
"""

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from archloom import campaign
from archloom.config import Config
from archloom.db.queries import leaderboard
from archloom.db.records import Origin
from archloom.db.statistics import compare_arms
from archloom.db.store import Store
from archloom.replay import replay

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart.toml"


def measure(kind: str, folder: Path) -> None:
    config = Config.load(str(QUICKSTART), [f"executor.kind={kind}", f'campaign.store="{folder / kind}.db"']).config
    with Store.open(config.campaign.store, create=True) as store:
        started = time.monotonic()
        outcome = campaign.run(config, store=store, resume=False, progress=lambda progress: None, stopping=lambda: 0)
        wall = time.monotonic() - started
        trials = store.history(config.campaign.name)
        rungs = Counter(r for t in trials if t.candidate.origin is not Origin.ZOO for r in range(t.rung + 1))
        comparison = compare_arms(trials, arm=Origin.EVOLUTION, control=Origin.RANDOM)
        best = leaderboard(trials)[0].candidate
        exact = replay(store, config.campaign.name, best.id, exact=True).ok
    print(f"{kind}: {outcome.state.value} after {wall:.0f} s; {outcome.evaluations} evaluations")
    print(f"  new candidates with a score, by rung: {dict(sorted(rungs.items()))}; zoo: {_zoo(trials)} baselines")
    print(f"  workers idle {outcome.overhead:.2%}, in gates {outcome.gates:.2%}")
    print(
        f"  evolution against random: {comparison.verdict}, {comparison.probability:.2f} "
        f"[{comparison.low:.2f}, {comparison.high:.2f}]"
    )
    print(f"  exact replay of {best.short}: {'equal' if exact else 'DIFFERENT'}", flush=True)


def _zoo(trials) -> int:  # type: ignore[no-untyped-def]
    return sum(t.candidate.origin is Origin.ZOO and t.rung >= 1 for t in trials)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for kind in sys.argv[1:] or ["ray", "process"]:
            measure(kind, Path(folder))
