"""Grades of the stories that a candidate tells, as a language model sees them, after Eldan & Li 2023 (TinyStories,
arXiv:2305.07759): a metric for people, and no part of any score.

A grade is worth as much as what fixes it. The grading's own protocol says all of that, its id stands beside every
grade, and grades of different protocols are never compared. They are kept as a note of the candidate, which no
proposer, ranking or promotion reads.
"""

import hashlib
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from archloom.agents.language_model import grading
from archloom.agents.language_model.answers import Grade
from archloom.agents.language_model.endpoints import CallFailed, Model
from archloom.agents.language_model.prompting import prompt
from archloom.agents.language_model.record import NotRecorded, Record
from archloom.agents.proposer import ProposerFailed
from archloom.arms import make_models, make_record, missing_key
from archloom.config import Config, ModelSection
from archloom.db.records import CampaignState, Candidate, EvaluationKey, Protocol, Result, Role, Stage, TrialSpec
from archloom.db.store import Store
from archloom.errors import ConfigError, EnvironmentProblem
from archloom.evaluator.task_kinds import kind_name
from archloom.protocol import check_version
from archloom.replay import TOLERANCE

if TYPE_CHECKING:
    from archloom.evaluator.continuations import Story

VERSION = 1
"""Raised when the same grading protocol comes to mean other grades."""
KIND = "stories"
ASPECTS = ("grammar", "creativity", "consistency")
TEMPERATURE = 1.0
SEED = 0
REPAIRS = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class GradingProtocol:
    """Everything that fixes what a grade means: who grades by which prompts, what is trained, how stories are told.

    `measured_under` is the id of the campaign's protocol. A story has `beginning` words given and at most `words` told.
    """

    version: int = VERSION
    model: str
    base_url: str
    max_tokens: int
    structured: bool
    prompts: tuple[str, ...]
    repairs: int = REPAIRS
    measured_under: str
    task: str
    rung: int
    seeds: tuple[int, ...]
    stories: int
    beginning: int
    words: int
    temperature: float = TEMPERATURE
    seed: int = SEED

    @property
    def id(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the protocol's JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """Sorted by key."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class GradedStory:
    """A story with its grade; without one, `problem` says why."""

    seed: int
    beginning: str
    continuation: str
    grade: Grade | None
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Mean and standard deviation over stories; NaN where there are too few."""

    mean: float
    deviation: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The grades of a candidate. `scores` are (seed, score on record, score when trained again)."""

    candidate: Candidate
    protocol: GradingProtocol
    scores: tuple[tuple[int, float, float], ...]
    stories: tuple[GradedStory, ...]

    @property
    def whole(self) -> bool:
        """Whether every story has a grade: else the means are over other stories than the protocol says."""
        return all(story.grade is not None for story in self.stories)

    @property
    def means(self) -> Mapping[str, Spread]:
        """Over the stories that have a grade, by aspect."""
        grades = [story.grade for story in self.stories if story.grade is not None]
        return {aspect: _spread([float(getattr(grade, aspect)) for grade in grades]) for aspect in ASPECTS}


def grade(
    store: Store,
    campaign: str,
    candidate: Candidate,
    *,
    stories: int,
    model: str | None = None,
    progress: Callable[[str], None] = lambda told: None,
) -> Report:
    """Train a candidate again on the stories of its campaign, and have a model grade what it tells.

    Calls are on the campaign's record and within its budget; what is on record is not asked again. Grades that are
    whole are added to the candidate's notes. Errors: `ConfigError` for a campaign that runs, has no task on stories or
    no such model, or a candidate that was not measured on the task; `EnvironmentProblem` for a key that is not set, a
    server that gives no answer, or training that does not come to the score on record.
    """
    kept = store.campaign(campaign)
    if kept.state is CampaignState.RUNNING:
        raise ConfigError(
            f"campaign {campaign!r} is running, and spends its budget of tokens and money itself\n"
            "  → stop it, then grade"
        )
    config, protocol = Config.from_json(kept.config), store.protocol(kept.protocol)
    check_version(protocol)
    chosen = _chosen(config, model)
    rung, stage = _stage(protocol)
    results = _results(store, campaign, candidate, rung=rung, stage=stage)
    record, asked = _record(store, config, chosen)
    by = _protocol(asked, protocol, rung=rung, stage=stage, stories=stories)
    scores, told = _told(store, campaign, candidate, results, protocol=protocol, by=by, progress=progress)
    graded = []
    for number, story in enumerate(told, start=1):
        progress(f"story {number} of {stories} is graded")
        graded.append(_graded(record, asked, story, by=by, ask=int(candidate.id[:7], 16)))
    report = Report(candidate=candidate, protocol=by, scores=scores, stories=tuple(graded))
    if report.whole and (line := note(report)) not in store.notes(campaign, candidate.id):
        store.add_note(campaign, candidate.id, line)
    return report


def note(report: Report) -> str:
    """The line that keeps the grades, with the protocol that they mean something under."""
    means = ", ".join(f"{aspect} {each.mean:.2f} ± {each.deviation:.2f}" for aspect, each in report.means.items())
    by = report.protocol
    return f"grading {by.id}: {means} over {by.stories} stories, in the opinion of {by.model}; {by.to_json()}"


def _protocol(asked: Model, protocol: Protocol, *, rung: int, stage: Stage, stories: int) -> GradingProtocol:
    length = protocol.task(stage.task).length
    return GradingProtocol(
        model=asked.name,
        base_url=asked.base_url,
        max_tokens=asked.max_tokens,
        structured=asked.structured,
        prompts=(prompt(Role.GRADER).title, prompt(Role.REPAIR).title),
        measured_under=protocol.id,
        task=stage.task,
        rung=rung,
        seeds=stage.seeds,
        stories=stories,
        beginning=length // 2,
        words=length - length // 2,
    )


# -- what is graded ---------------------------------------------------------------------------------------------------


def _stage(protocol: Protocol) -> tuple[int, Stage]:
    """The highest rung that has a task on stories, and the first such stage of it."""
    for rung, level in reversed(list(enumerate(protocol.rungs))):
        for stage in level.stages:
            if kind_name(protocol.task(stage.task)) == KIND:
                return rung, stage
    raise ConfigError(
        f"protocol {protocol.id} has no rung with a task on stories, so no candidate can tell any\n"
        '  → start a campaign that has one, as one with protocol.suite = "standard"'
    )


def _results(store: Store, campaign: str, candidate: Candidate, *, rung: int, stage: Stage) -> list[Result]:
    """What the candidate came to in the stage, in the order of its seeds."""
    trial = next(trial for trial in store.history(campaign) if trial.candidate.id == candidate.id)
    scored = {result.key: result for result in trial.results if result.score is not None}
    keys = [EvaluationKey(candidate=candidate.id, task=stage.task, rung=rung, seed=seed) for seed in stage.seeds]
    if any(key not in scored for key in keys):
        raise ConfigError(
            f"candidate {candidate.short} has no score on task {stage.task!r} of rung {rung} with every seed, and only "
            "what was measured there is graded\n  → archloom top shows the rung that each candidate came to"
        )
    return [scored[key] for key in keys]


def _told(
    store: Store,
    campaign: str,
    candidate: Candidate,
    results: Sequence[Result],
    *,
    protocol: Protocol,
    by: GradingProtocol,
    progress: Callable[[str], None],
) -> tuple[tuple[tuple[int, float, float], ...], tuple["Story", ...]]:
    """The scores on record and anew, and the stories in their order: they are dealt out to the seeds in turn."""
    from archloom.evaluator.continuations import Sampling, tell

    sampling = Sampling(
        stories=by.stories, beginning=by.beginning, words=by.words, temperature=by.temperature, seed=by.seed
    )
    timeout = Config.from_json(store.campaign(campaign).config).executor.timeout_seconds
    scores: list[tuple[int, float, float]] = []
    told: dict[int, Story] = {}
    for turn, result in enumerate(results[: by.stories]):
        progress(f"{candidate.short} is trained again on {by.task} with seed {result.key.seed}")
        spec = TrialSpec(
            key=result.key,
            term=candidate.term,
            protocol=protocol,
            steps=store.steps(campaign, result.key),
            timeout_seconds=10 * timeout,
        )
        places = range(turn, by.stories, len(results))
        rate = result.metrics.get("learning_rate", protocol.training.learning_rate)
        score, stories = tell(spec, learning_rate=rate, sampling=sampling, places=places)
        assert result.score is not None
        if not abs(score - result.score) <= TOLERANCE:
            raise EnvironmentProblem(
                f"candidate {candidate.short}, trained again with seed {result.key.seed}, scores {score:.3f} and "
                f"{result.score:.3f} is on record: this is not what was measured\n"
                f"  → archloom replay {candidate.short} says what differs"
            )
        scores.append((result.key.seed, result.score, score))
        told |= dict(zip(places, stories, strict=True))
    return tuple(scores), tuple(told[place] for place in range(by.stories))


# -- who grades -------------------------------------------------------------------------------------------------------


def _chosen(config: Config, name: str | None) -> ModelSection:
    """The model of that name, the first of the campaign for None."""
    if config.language_model is None:
        raise ConfigError(
            f"campaign {config.campaign.name!r} has no language model to grade with\n"
            "  → start one whose file has [[language_model.models]]; the arm itself may have no share"
        )
    models = {section.model: section for section in config.language_model.models}
    if name is None:
        return next(iter(models.values()))
    if name not in models:
        raise ConfigError(f"--model {name}: no model of campaign {config.campaign.name!r}; it has {', '.join(models)}")
    return models[name]


def _record(store: Store, config: Config, chosen: ModelSection) -> tuple[Record, Model]:
    """The campaign's record with a client for one model, or without any where its key is not set but it was asked."""
    assert config.language_model is not None
    only = config.language_model.model_copy(update={"models": (chosen,), "by_hand": False})
    config = config.model_copy(update={"language_model": only})
    record = make_record(config, store, online=not missing_key(chosen))
    if missing_key(chosen) and not any((call.role, call.model) == (Role.GRADER, chosen.model) for call in record.calls):
        raise _unkeyed(chosen)
    return record, make_models(config)[0]


def _unkeyed(chosen: ModelSection) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"the model {chosen.model} is to grade, and the environment variable {chosen.key_variable} is not set\n"
        f"  → export {chosen.key_variable}=..."
    )


def _graded(record: Record, asked: Model, story: "Story", *, by: GradingProtocol, ask: int) -> GradedStory:
    """The story with its grade. Errors: `EnvironmentProblem` if the server gives no answer or none can be asked."""
    found, problem = None, ""
    try:
        found = grading.grade(
            record,
            asked,
            beginning=story.beginning,
            continuation=story.continuation,
            seed=by.seed,
            ask=ask,
            repairs=by.repairs,
        )
    except NotRecorded as missing:
        raise EnvironmentProblem(f"{missing}, and its key is not set\n  → set it as the campaign's file says") from None
    except CallFailed as failed:
        raise EnvironmentProblem(
            f"{failed}\n  → the same command, later: the grades that are there are on record"
        ) from None
    except ProposerFailed as refused:
        problem = str(refused)
    return GradedStory(
        seed=story.seed, beginning=story.beginning, continuation=story.continuation, grade=found, problem=problem
    )


def _spread(values: Sequence[float]) -> Spread:
    return Spread(
        mean=statistics.fmean(values) if values else math.nan,
        deviation=statistics.stdev(values) if len(values) > 1 else math.nan,
    )
