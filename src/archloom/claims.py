"""A claim put to the test: the candidates in question beside all baselines and the best of luck, on fresh seeds.

The fresh results are a campaign of their own, `NAME.claim`, `NAME.claim-2` and so on, with the same protocol but for
its seeds. So they are leased, resumed and replayed as any others, and a second claim takes seeds that no earlier one
has looked at.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from archloom import campaign
from archloom.config import Arms, Budget, Config, RungSection
from archloom.db.claims import Claim, Judgement, control, judge
from archloom.db.queries import leaderboard
from archloom.db.records import CampaignState, Candidate, Origin, Protocol, Trial
from archloom.db.store import Store
from archloom.errors import ConfigError
from archloom.progress import Outcome, Progress
from archloom.protocol import check_version, to_protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of a claim. `campaign` holds the fresh results; `judgements` are in the order of the claim's
    candidates, and none while the campaign has not ended."""

    campaign: str
    claim: Claim
    judgements: tuple[Judgement, ...]
    outcome: Outcome


def put(
    store: Store,
    name: str,
    *,
    candidates: Sequence[str],
    seeds: int,
    executor: str | None,
    progress: Callable[[Progress], None],
    stopping: Callable[[], int],
) -> Verdict:
    """Measure candidates of a campaign (ids; the best one if there are none) on `seeds` fresh seeds, and judge them.

    A claim about the same candidates that was interrupted is taken up again. Errors: `ConfigError` for a campaign with
    nothing to claim, or a protocol of another version.
    """
    trials = store.history(name)
    protocol = store.protocol(store.campaign(name).protocol)
    check_version(protocol)
    picked = tuple(candidates) or _best(trials)
    luck = tuple(each for each in _luck(trials, protocol) if each not in picked)
    known = {trial.candidate.id: trial.candidate for trial in trials}
    own, config = _prepared(store, name, entrants=[known[each] for each in (*picked, *luck)], seeds=seeds)
    if executor is not None:
        config = config.model_copy(update={"executor": config.executor.model_copy(update={"kind": executor})})
    measured_under = to_protocol(config)
    outcome = campaign.run(config, store=store, resume=True, progress=progress, stopping=stopping)
    fresh = measured_under.rungs[-1].stages[0].seeds
    claim = Claim(candidates=picked, seeds=fresh, rung=len(protocol.rungs) - 1, controls=luck)
    judgements: tuple[Judgement, ...] = ()
    if outcome.state is CampaignState.FINISHED:
        judgements = judge(claim, _joined(trials, store.history(own)), protocol, measured_under=measured_under)
    return Verdict(campaign=own, claim=claim, judgements=judgements, outcome=outcome)


def _best(trials: Sequence[Trial]) -> tuple[str]:
    for row in leaderboard(trials):
        if row.candidate.origin is not Origin.ZOO:
            return (row.candidate.id,)
    raise ConfigError("the campaign has no candidate with a score, so there is nothing to claim\n  → archloom failures")


def _luck(trials: Sequence[Trial], protocol: Protocol) -> tuple[str, ...]:
    """The best of as many random candidates as the other arms have tried, by the highest rung that any reached."""
    tried = sum(trial.candidate.origin not in (Origin.ZOO, Origin.RANDOM) for trial in trials)
    for rung in reversed(range(len(protocol.rungs))):
        found = control(trials, protocol, n=tried, rung=rung)
        if found is not None:
            return (found.candidate.id,)
    return ()


def _prepared(store: Store, name: str, *, entrants: Sequence[Candidate], seeds: int) -> tuple[str, Config]:
    """The name and configuration of the claim's campaign: an unfinished one about these entrants, or one made now."""
    config = Config.from_json(store.campaign(name).config)
    earlier = [each for each in store.campaigns() if re.fullmatch(rf"{re.escape(name)}\.claim(-\d+)?", each.name)]
    wanted = {each.id for each in entrants}
    for begun in earlier:
        about = {found.id for found in store.candidates(begun.name) if found.origin is not Origin.ZOO}
        if begun.state is not CampaignState.FINISHED and about == wanted:
            return begun.name, Config.from_json(begun.config)
    protocols = [store.protocol(each.protocol) for each in (store.campaign(name), *earlier)]
    first = 1 + max(seed for each in protocols for rung in each.rungs for stage in rung.stages for seed in stage.seeds)
    own = f"{name}.claim" if not earlier else f"{name}.claim-{len(earlier) + 1}"
    fresh = _on_fresh_seeds(config, seeds=tuple(range(first, first + seeds)), entrants=len(entrants)).renamed(own)
    protocol = to_protocol(fresh)
    store.create_campaign(campaign.new_record(fresh, protocol), protocol=protocol)
    for index, entrant in enumerate(entrants, start=len(protocol.baselines)):
        store.add_candidate(own, replace(entrant, index=index, parents=()))
    return own, fresh


def _on_fresh_seeds(config: Config, *, seeds: tuple[int, ...], entrants: int) -> Config:
    """The configuration with fresh seeds on the highest rung and the first of them on those below, where all rise."""

    def rung(section: RungSection, chosen: tuple[int, ...]) -> RungSection:
        stages = tuple(stage.model_copy(update={"seeds": chosen}) for stage in section.stages)
        return section.model_copy(update={"stages": stages, "keep": 1.0})

    *lower, top = config.protocol.rungs
    rungs = (*(rung(each, seeds[:1]) for each in lower), rung(top, seeds))
    return config.model_copy(
        update={
            "protocol": config.protocol.model_copy(update={"rungs": rungs}),
            "budget": Budget(candidates=entrants),
            "search": config.search.model_copy(update={"arms": Arms(random=1.0)}),  # nothing is left to propose
            "language_model": None,
        }
    )


def _joined(trials: Sequence[Trial], fresh: Sequence[Trial]) -> list[Trial]:
    """The trials with the fresh results behind those of selection."""
    results = {trial.candidate.id: trial.results for trial in fresh}
    return [replace(trial, results=trial.results + results.get(trial.candidate.id, ())) for trial in trials]
