"""The campaign loop with real parts: same results on every executor and after every interruption, none twice."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import pytest

from archloom import campaign
from archloom.agents.proposer import Proposal
from archloom.config import Config
from archloom.db.records import GATES, CampaignState, FailureKind, Origin, Trial
from archloom.db.store import Store
from archloom.errors import ConfigError, EnvironmentProblem
from archloom.search_space import zoo

Results = dict[tuple[str, str, int, int], float | None]
"""Score by (candidate, task, rung, seed)."""

Configure = Callable[..., Config]


@pytest.fixture(scope="module")
def configuration(campaign_file: Callable[[Path], Path]) -> Configure:
    return lambda folder, *changes: Config.load(str(campaign_file(folder)), changes).config


def results(store: Store, name: str = "small") -> Results:
    """Every finished evaluation."""
    return {
        (r.key.candidate, r.key.task, r.key.rung, r.key.seed): r.score
        for trial in store.history(name)
        for r in trial.results
    }


def ignore(progress: campaign.Progress) -> None:
    pass


def never() -> int:
    return 0


def go(
    config: Config, *, resume: bool = False, stopping: Callable[[], int] = never
) -> tuple[campaign.Outcome, Results]:
    with Store.open(config.campaign.store, create=True) as store:
        outcome = campaign.run(config, store=store, resume=resume, progress=ignore, stopping=stopping)
        return outcome, results(store, config.campaign.name)


@pytest.fixture(scope="module")
def whole(configuration: Configure, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The results of the small campaign, run inline and without interruption."""
    outcome, found = go(configuration(tmp_path_factory.mktemp("whole")))
    assert outcome.state is CampaignState.FINISHED
    return found


def test_a_campaign_spends_its_budget_through_both_rungs(
    whole: Results, configuration: Configure, tmp_path: Path
) -> None:
    config = configuration(tmp_path)
    seen: list[campaign.Progress] = []
    with Store.open(config.campaign.store, create=True) as store:
        campaign.run(config, store=store, resume=False, progress=seen.append, stopping=never)
        trials = store.history("small")
        assert store.campaign("small").state is CampaignState.FINISHED
        assert results(store) == whole
    new = [t for t in trials if t.candidate.origin is not Origin.ZOO]
    assert len(new) == 6
    assert {t.candidate.origin for t in new} == {Origin.RANDOM, Origin.EVOLUTION}
    assert len({t.candidate.id for t in trials}) == 8
    assert all(t.rung == 1 for t in trials if t.candidate.origin is Origin.ZOO)
    scored = sum(t.rung >= 0 for t in new)
    assert sum(t.rung == 1 for t in new) == scored // 2
    evolved = [t.candidate for t in new if t.candidate.origin is Origin.EVOLUTION]
    assert all(c.parents and c.operator for c in evolved)
    assert seen[-1].candidates == 6
    assert seen[-1].baseline_name in ("mha", "linear_attention")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["process", "ray"])
def test_every_executor_gives_the_same_results(
    kind: str, whole: Results, configuration: Configure, tmp_path: Path
) -> None:
    outcome, found = go(configuration(tmp_path, f"executor.kind={kind}"))
    assert outcome.state is CampaignState.FINISHED
    assert found == whole


def test_ctrl_c_drains_and_resume_completes_the_same_set(
    whole: Results, configuration: Configure, tmp_path: Path
) -> None:
    config = configuration(tmp_path)
    polls = iter(range(1000))
    outcome, part = go(config, stopping=lambda: int(next(polls) > 9))
    assert outcome.state is CampaignState.STOPPED
    assert 0 < len(part) < len(whole)
    assert part.items() <= whole.items()
    outcome, found = go(config, resume=True)
    assert outcome.state is CampaignState.FINISHED
    assert found == whole
    assert outcome.evaluations == len(whole) - len(part)


def test_kill_9_of_the_process_tree_loses_and_repeats_nothing(
    configuration: Configure, campaign_file: Callable[[Path], Path], tmp_path: Path
) -> None:
    more = "budget.candidates=16"
    (tmp_path / "whole").mkdir()
    _, whole = go(configuration(tmp_path / "whole", more))
    path, location = campaign_file(tmp_path), tmp_path / "small.db"
    command = [sys.executable, "-m", "archloom", "run", str(path), "--executor", "process", "--set", more]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    victim = subprocess.Popen(command, start_new_session=True, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(_results_so_far(location)) < 6 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait()
    before = _results_so_far(location)
    assert 6 <= len(before) < len(whole), "the campaign was to be killed in the middle"
    outcome, found = go(configuration(tmp_path, more), resume=True)
    assert outcome.state is CampaignState.FINISHED
    assert found == whole
    assert before.items() <= found.items()
    assert outcome.evaluations == len(whole) - len(before)
    with Store.open(location) as store:
        _, rows = store.query("select count(*) from attempts where outcome in ('done', 'failed')")
    assert rows[0][0] == len(whole), "an evaluation was finished twice"


def _results_so_far(location: Path) -> Results:
    if not location.exists():
        return {}
    try:
        with Store.open(location) as store:
            return results(store) if store.campaigns() else {}
    except EnvironmentProblem:  # the victim is still creating it
        return {}


def test_two_runs_on_one_campaign_are_refused(configuration: Configure, tmp_path: Path) -> None:
    config = configuration(tmp_path)
    with Store.open(config.campaign.store, create=True) as store:
        second: list[BaseException] = []

        def intrude(progress: campaign.Progress) -> None:
            if not second:
                with pytest.raises(EnvironmentProblem) as caught:
                    campaign.run(config, store=store, resume=True, progress=ignore, stopping=never)
                second.append(caught.value)

        campaign.run(config, store=store, resume=False, progress=intrude, stopping=lambda: len(second))
        assert str(os.getpid()) in str(second[0])
        with pytest.raises(ConfigError, match="small"):
            campaign.run(config, store=store, resume=False, progress=ignore, stopping=never)


def test_a_wall_budget_stops_in_time_and_can_be_raised(configuration: Configure, tmp_path: Path) -> None:
    outcome, part = go(configuration(tmp_path, "budget.wall_seconds=0.5"))
    assert outcome.state is CampaignState.EXHAUSTED
    assert "wall" in outcome.message
    assert outcome.wall_seconds < 10
    outcome, _ = go(configuration(tmp_path), resume=True)
    assert outcome.state is CampaignState.FINISHED
    assert part.keys() <= results_of(tmp_path).keys()


def test_a_device_budget_is_never_overspent(configuration: Configure, tmp_path: Path) -> None:
    outcome, _ = go(configuration(tmp_path, "budget.device_seconds=0.5"))
    assert outcome.state is CampaignState.EXHAUSTED
    assert "device" in outcome.message
    with Store.open(tmp_path / "small.db") as store:
        seconds = [r.seconds for t in store.history("small") for r in t.results]
    assert sum(seconds) < 0.5 + max(seconds)


def results_of(folder: Path) -> Results:
    with Store.open(folder / "small.db") as store:
        return results(store)


def test_a_candidate_that_computes_a_known_function_is_not_trained(
    configuration: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one fingerprint for all, every new candidate is a duplicate of the first baseline."""
    monkeypatch.setattr("archloom.evaluator.gates.fingerprint", lambda architecture: "same")
    _, found = go(configuration(tmp_path))
    with Store.open(tmp_path / "small.db") as store:
        new = [t for t in store.history("small") if t.candidate.origin is not Origin.ZOO]
    assert len(new) == 6
    for trial in new:
        assert trial.failure is not None
        assert trial.failure.kind is FailureKind.DUPLICATE
        assert "mha" in trial.failure.reason
        assert [r.key.task for r in trial.results if r.failure is None] == [GATES]
    assert found


class _Small:
    """An arm whose whole space is one new mixer."""

    def ask(self, history: Sequence[Trial], n: int, rng: Random) -> list[Proposal]:
        term = zoo.as_architecture(zoo.load("retnet"), depth=1)
        return [Proposal(term=term, origin=Origin.RANDOM, operator="sample")] * n


def test_an_exhausted_space_is_said_plainly(
    configuration: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("archloom.campaign.make_arms", lambda config, store, protocol: {"random": _Small()})
    config = configuration(tmp_path, "search.arms={random=1.0}", "executor.kind=inline")
    with Store.open(config.campaign.store, create=True) as store:
        with pytest.raises(ConfigError, match=r"after 3: .*max_size"):
            campaign.run(config, store=store, resume=False, progress=ignore, stopping=never)
        assert [t.candidate.origin for t in store.history("small")] == [Origin.ZOO, Origin.ZOO, Origin.RANDOM]
