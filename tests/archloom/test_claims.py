"""A claim is measured on fresh seeds in a campaign of its own, and judged; interrupted, it is taken up again."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from archloom import campaign
from archloom.claims import Verdict, put
from archloom.config import Config
from archloom.db.records import GATES, CampaignState, Origin
from archloom.db.store import Store
from archloom.main import app


@pytest.fixture(scope="module")
def location(campaign_file: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The store of a small finished campaign."""
    config = Config.load(str(campaign_file(tmp_path_factory.mktemp("claims")))).config
    with Store.open(config.campaign.store, create=True) as store:
        campaign.run(config, store=store, resume=False, progress=lambda progress: None, stopping=lambda: 0)
    return config.campaign.store


def claim(
    store: Store, *, seeds: int, stopping: Callable[[], int] = lambda: 0, candidates: tuple[str, ...] = ()
) -> Verdict:
    return put(
        store,
        "small",
        candidates=candidates,
        seeds=seeds,
        executor=None,
        progress=lambda progress: None,
        stopping=stopping,
    )


def test_a_claim_runs_on_seeds_that_nothing_has_seen_and_goes_on_after_an_interruption(location: str) -> None:
    with Store.open(location) as store:
        stops = iter([0, 0, 0, 1])
        halted = claim(store, seeds=5, stopping=lambda: next(stops, 1))
        assert halted.judgements == ()
        verdict = claim(store, seeds=5)
        assert verdict.campaign == halted.campaign == "small.claim"
        assert verdict.outcome.state is CampaignState.FINISHED
        assert verdict.claim.seeds == (3, 4, 5, 6, 7), "the campaign used 0, 1 and 2"
        (judgement,) = verdict.judgements
        assert judgement.candidate == verdict.claim.candidates[0]
        assert (judgement.ruling == "promoted") == (judgement.reasons == ())
        assert not [r for r in judgement.reasons if "not measured" in r or "protocol" in r]
        fresh = store.history("small.claim")
        assert {trial.candidate.name for trial in fresh if trial.candidate.origin is Origin.ZOO} == {
            "mha",
            "linear_attention",
        }
        tops = [{r.key.seed for r in trial.results if r.key.rung == 1 and r.key.task != GATES} for trial in fresh]
        assert all(each in ({3, 4, 5, 6, 7}, set()) for each in tops)


def test_a_second_claim_takes_other_seeds_and_too_few_are_refused(location: str) -> None:
    with Store.open(location) as store:
        claim(store, seeds=5)
        verdict = claim(store, seeds=2)
        assert verdict.campaign != "small.claim"
        assert min(verdict.claim.seeds) > 7
        (judgement,) = verdict.judgements
        assert judgement.ruling == "refused"
        assert any("too few seeds" in reason for reason in judgement.reasons)


def test_the_command_says_why_and_exits_with_1(location: str) -> None:
    result = CliRunner().invoke(app, ["claim", "--seeds", "2", "--campaign", "small", "--store", location])
    assert result.exit_code == 1, result.output
    assert "too few seeds: 2" in result.stdout
    assert "refused" in result.stdout
    answer = CliRunner().invoke(app, ["claim", "--seeds", "2", "--campaign", "small", "--store", location, "--json"])
    assert json.loads(answer.stdout)["judgements"][0]["ruling"] == "refused"
