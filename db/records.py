"""Frozen records: all that passes between the evaluator, the proposers, the store and the campaign loop.

No SQLAlchemy and no torch here. Records travel to worker processes by pickle and to the database by the store.

A **protocol** fixes what a score means; an **evaluation** is one (candidate, task, rung, seed) under one protocol; an
**attempt** is one try at an evaluation; a **measurement** is what a worker answers, of a failed trial too.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from functools import cached_property

GATES = "gates"
"""The pseudo-task whose evaluation runs the gates instead of training."""


class Origin(StrEnum):
    """Which arm wrote a candidate."""

    ZOO = "zoo"
    RANDOM = "random"
    EVOLUTION = "evolution"
    LANGUAGE_MODEL = "language_model"


class CampaignState(StrEnum):
    RUNNING = "running"
    STOPPED = "stopped"
    EXHAUSTED = "exhausted"
    FINISHED = "finished"


class EvaluationState(StrEnum):
    PENDING = "pending"
    LEASED = "leased"
    DONE = "done"
    FAILED = "failed"


class FailureKind(StrEnum):
    """Why an evaluation has no score. Whatever says nothing of the candidate is tried again first: a lost worker, and
    one that the kernel killed for want of memory, which the whole machine shares."""

    BUDGET = "budget"
    BUILD = "build"
    FORWARD = "forward"
    CAUSALITY = "causality"
    BATCH = "batch"
    DECODE = "decode"
    GRADIENT = "gradient"
    LOWERING = "lowering"
    COST = "cost"
    DETERMINISM = "determinism"
    STABILITY = "stability"
    DUPLICATE = "duplicate"
    DIVERGED = "diverged"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    ERROR = "error"
    WORKER_LOST = "worker_lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A proxy task. `vocabulary` counts symbols, `length` tokens; `options` are the task's own, sorted by name."""

    name: str
    vocabulary: int
    length: int
    batch: int
    options: tuple[tuple[str, int | float | str], ...] = ()

    def option(self, name: str) -> int | float | str:
        return dict(self.options)[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One task of a rung: train `steps` steps with each of `seeds`."""

    task: str
    steps: int
    seeds: tuple[int, ...] = (0,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """A level of spend. `keep` is the fraction of its candidates that rise to the next rung."""

    stages: tuple[Stage, ...]
    keep: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """The optimiser of a protocol: AdamW, constant rate after `warmup` steps, decayed over the last quarter.

    `rates` gives a family of architectures (`search_space.families`) a grid of learning rates of its own: each is
    trained from the same weights on the same data and the best final score counts. Other families have the one
    `learning_rate`.
    """

    learning_rate: float = 1e-2
    weight_decay: float = 0.01
    warmup: int = 10
    clip: float = 1.0
    rates: tuple[tuple[str, tuple[float, ...]], ...] = ()

    def grid(self, family: str) -> tuple[float, ...]:
        return dict(self.rates).get(family, (self.learning_rate,))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """When a run ends early and keeps its last score, by its own curve alone.

    It has *solved* the task after `in_a_row` evaluations at `solved` or above. It is *hopeless* if no score was above
    `chance` by the end of the task's ramp and a share `patience` of the steps more.
    """

    patience: float = 0.5
    chance: float = 0.02
    solved: float = 0.99
    in_a_row: int = 2


PROTOCOL_VERSION = 2
"""Raised when the same protocol record comes to mean another score."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Everything that fixes what a score means. Scores of different protocols are never ranked together.

    `reference` is the term (text) of the architecture whose parameter count at width `width` is the target that every
    candidate matches within `tolerance`. `depth` is the largest number of blocks. `baselines` are (name, term): what
    effects are measured against. `suite` names the suite and version that tasks and rungs were taken from, if any.
    """

    version: int
    grammar: int
    reference: str
    width: int
    depth: int
    tolerance: float = 0.02
    tasks: tuple[Task, ...]
    rungs: tuple[Rung, ...]
    training: Training = Training()
    threads: int = 1
    suite: str = ""
    baselines: tuple[tuple[str, str], ...] = ()
    stopping: Stopping | None = None

    def task(self, name: str) -> Task:
        return next(task for task in self.tasks if task.name == name)

    @cached_property
    def id(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the protocol's JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """Sorted by key. What version 1 did not have is left out of it, so that its protocols keep their ids."""
        data = asdict(self)
        if self.version == 1:
            del data["suite"], data["baselines"], data["stopping"], data["training"]["rates"]
        return json.dumps(data, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Protocol":
        data = json.loads(text)
        tasks = tuple(Task(**{**task, "options": tuple(map(tuple, task["options"]))}) for task in data["tasks"])
        rungs = tuple(
            Rung(
                keep=rung["keep"],
                stages=tuple(Stage(**{**stage, "seeds": tuple(stage["seeds"])}) for stage in rung["stages"]),
            )
            for rung in data["rungs"]
        )
        training = dict(data["training"])
        training["rates"] = tuple((family, tuple(grid)) for family, grid in training.get("rates", ()))
        stopping = data.get("stopping")
        read = {
            "tasks": tasks,
            "rungs": rungs,
            "training": Training(**training),
            "baselines": tuple((name, term) for name, term in data.get("baselines", ())),
            "stopping": Stopping(**stopping) if stopping else None,
        }
        return cls(**{**data, **read})


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An architecture in a campaign. `id` is the SHA-256 of the canonical text; `index` its place in the campaign.

    What a language model wrote has an `author`, the model; `predictions` are (task, change of score that it expects)
    and `cites` the names of what it rests on.
    """

    id: str
    term: str
    origin: Origin
    index: int
    name: str | None = None
    operator: str | None = None
    parents: tuple[str, ...] = ()
    rationale: str | None = None
    author: str | None = None
    predictions: tuple[tuple[str, float], ...] = ()
    cites: tuple[str, ...] = ()

    @property
    def short(self) -> str:
        return self.id[:8]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationKey:
    """What makes an evaluation the same one: it is stored once and finished once per campaign."""

    candidate: str
    task: str
    rung: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialSpec:
    """All that a worker needs: it never sees the store. `steps` is 0 for the gates."""

    key: EvaluationKey
    term: str
    protocol: Protocol
    steps: int
    timeout_seconds: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why an evaluation has no score, in words a researcher can act on."""

    kind: FailureKind
    reason: str
    traceback: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A metric over training steps."""

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What a worker answers. `score` is in [0, 1], higher is better, and is None exactly when `failure` is set.

    `metrics` holds named numbers (loss, accuracy, parameters, flops, state_bytes, train_seconds, ...) and `environment`
    what a result depends on beside its protocol (torch version, CPU capability, threads, device, host).
    """

    key: EvaluationKey
    score: float | None
    metrics: Mapping[str, float]
    series: tuple[Series, ...] = ()
    environment: Mapping[str, str]
    seconds: float
    failure: Failure | None = None
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        if (self.score is None) != (self.failure is not None) and self.key.task != GATES:
            raise ValueError(f"a measurement has a score or a failure, got score={self.score}, failure={self.failure}")

    def result(self) -> "Result":
        """What the history shows of it."""
        return Result(
            key=self.key,
            score=self.score,
            metrics=self.metrics,
            failure=self.failure,
            seconds=self.seconds,
            fingerprint=self.fingerprint,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try at an evaluation, held under a lease until `expires`."""

    id: int
    key: EvaluationKey
    number: int
    worker: str
    expires: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A finished evaluation as the history shows it."""

    key: EvaluationKey
    score: float | None
    metrics: Mapping[str, float]
    failure: Failure | None
    seconds: float
    fingerprint: str | None = None

    @property
    def ok(self) -> bool:
        return self.failure is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """A search under one protocol. `config` is the resolved configuration as JSON and `config_hash` its SHA-256."""

    name: str
    config: str
    config_hash: str
    protocol: str
    seed: int
    state: CampaignState
    created: datetime
    wall_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to a campaign: started, stopped, resumed, failure, note."""

    at: datetime
    kind: str
    text: str


class Role(StrEnum):
    """What a language model is asked for."""

    RESEARCHER = "researcher"
    REPAIR = "repair"
    CRITIC = "critic"
    ANALYST = "analyst"
    GRADER = "grader"
    EMBEDDER = "embedder"


BILLION = 1_000_000_000
"""What costs are whole numbers of: billionths of a currency."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModelCall:
    """One call, recorded before it is sent and completed by its answer: enough to replay it without the network.

    `key` tells it from all others, `prompt` is the version of its text, `ask` the seed of the proposal it serves and
    `subject` the candidate that it is about, if it is about one.
    While `response` is None the call is in flight, or was lost with its process; its tokens and its `cost`, in
    billionths of the currency of the prices, are then the most that they can be. They stay so if a server counts none.
    """

    key: str
    at: datetime
    role: Role
    prompt: str
    endpoint: str
    model: str
    ask: int
    subject: str | None = None
    request: str
    response: str | None
    prompt_tokens: int
    completion_tokens: int
    cost: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """One thing learnt from `candidate`. `evidence` are the evaluations it rests on, `when` has a time zone.

    `score` is what it has proved worth: 1 for a lesson that no proposal has used yet, more if the proposals that cite
    it do better than others, less if they do worse, 0 for one that has faded and is no longer found.

    Errors: `ValueError` for an empty text, no evidence, a score that is negative or not finite, a naive time.
    """

    text: str
    candidate: str
    evidence: tuple[EvaluationKey, ...]
    score: float = 1.0
    when: datetime

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError("a lesson has no text; say in a sentence what was learnt")
        if not self.evidence:
            raise ValueError(f"the lesson {self.text!r} has no evidence; name the evaluations that show it")
        if not (math.isfinite(self.score) and self.score >= 0):
            raise ValueError(f"a lesson's score is {self.score}; it is a finite number, 0 or more")
        if self.when.tzinfo is None:
            raise ValueError(f"a lesson's time, {self.when}, has no time zone; use UTC")

    @property
    def name(self) -> str:
        """What proposals cite it by: the same in every replay."""
        return f"lesson-{hashlib.sha256(f'{self.candidate} {self.text}'.encode()).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A candidate with all its results: what proposers and leaderboards read.

    `unfinished` are the rungs that still wait for an evaluation: half a rung is not comparable with a whole one.
    `standings` are (rung, combined score in units of seed noise), as `db.effects.placed` finds them among other trials.
    """

    candidate: Candidate
    results: tuple[Result, ...]
    unfinished: frozenset[int] = frozenset()
    standings: tuple[tuple[int, float], ...] = ()

    @property
    def failure(self) -> Failure | None:
        return next((result.failure for result in self.results if result.failure), None)

    @property
    def rung(self) -> int:
        """The highest finished rung with a score, -1 if there is none."""
        scored = (result.key.rung for result in self.results if result.score is not None)
        return max((rung for rung in scored if rung not in self.unfinished), default=-1)

    def score(self, rung: int) -> float:
        """Mean score over the tasks and seeds of one rung; NaN if there is none."""
        scores = [r.score for r in self.results if r.key.rung == rung and r.score is not None]
        return sum(scores) / len(scores) if scores else math.nan

    def fitness(self, rung: int) -> float:
        """What candidates are ranked by on a rung: their standing there, or the mean score where they have none."""
        return dict(self.standings).get(rung, self.score(rung))

    def metric(self, name: str, *, task: str | None = None) -> float:
        """Mean of a metric at the highest rung that has it, over seeds (and tasks unless one is named); NaN if none."""
        having = [r for r in self.results if name in r.metrics and task in (None, r.key.task)]
        if not having:
            return math.nan
        top = max(r.key.rung for r in having)
        values = [r.metrics[name] for r in having if r.key.rung == top]
        return sum(values) / len(values)
