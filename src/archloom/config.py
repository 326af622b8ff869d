"""A campaign file: every key, its default and its range.

A file needs two lines, `[campaign]` and a `name`; what it leaves out takes the value written here. Values are checked
strictly: no string is read as a number, no key is ignored. This module knows what a configuration is; where its values
came from is the matter of `archloom.resolve`, what its names stand for that of `archloom.protocol`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from archloom.errors import ConfigError
from archloom.evaluator.dials import alike, faults
from archloom.evaluator.suites import suite_named
from archloom.evaluator.task_table import KINDS
from archloom.search_space import families

if TYPE_CHECKING:
    from archloom.resolve import Resolved

Positive = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Rate = Annotated[float, Field(gt=0)]


def _tuples(value: object) -> object:
    """The value with tuples for lists: what a strict check takes of a document once a validator has looked at it."""
    match value:
        case dict():
            return {name: _tuples(each) for name, each in value.items()}
        case list():
            return tuple(_tuples(each) for each in value)
        case _:
            return value


def _misplaced(path: tuple[str | int, ...], rule: str) -> PydanticCustomError:
    """An error of a key below the model that found it; `archloom.resolve` adds the path to the place it reports."""
    return PydanticCustomError("misplaced", "{rule}", {"rule": rule, "path": path})


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class CampaignSection(Section):
    """Which campaign this is, and where it is kept."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)
    """Unique in its store."""
    seed: Seed = 0
    """Fixes every random choice of the search; the seeds of training stand in the rungs."""
    store: str = Field(default="archloom.db", min_length=1)
    """A path, relative to the working directory, or an SQLAlchemy URL."""


class Budget(Section):
    """Hard limits, reserved before they are spent."""

    candidates: Positive = 100
    """New candidates; the baselines are not counted."""
    wall_seconds: float | None = Field(default=None, gt=0)
    """Wall time over all sessions of the campaign. Without it there is no limit."""
    device_seconds: float | None = Field(default=None, gt=0)
    """Seconds of all workers together. Without it there is no limit."""
    tokens: int | None = Field(default=None, gt=0)
    """Tokens of language models, prompts and answers. Without it there is no limit."""
    money: float | None = Field(default=None, gt=0)
    """What language models may cost, in the currency of their prices. Without it there is no limit."""

    @field_validator("candidates", "wall_seconds", "device_seconds", "tokens", "money", mode="before")
    @classmethod
    def _buys_something(cls, value: object) -> object:
        if isinstance(value, int | float) and not isinstance(value, bool) and value == 0:
            raise PydanticCustomError("zero", "a budget of zero buys nothing; leave the key out for its default")
        return value


class Training(Section):
    """AdamW at a constant rate after the warm-up, decayed over the last quarter of the steps."""

    learning_rate: float = Field(default=1e-2, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: int = Field(default=10, ge=0)
    """Steps of linear growth before the constant rate."""
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of a gradient."""
    rates: dict[str, tuple[Rate, ...]] = {}
    """A grid of rates for a family (attention, recurrence, convolution, pointwise); the best of it counts."""

    @field_validator("rates")
    @classmethod
    def _of_families(cls, rates: dict[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
        for name, grid in rates.items():
            if name not in families.ALL:
                raise PydanticCustomError(
                    "family", "no family {name}; {hint}", {"name": name, "hint": alike(name, families.ALL)}
                )
            if not grid:
                raise PydanticCustomError("grid", "the grid of {name} is empty; leave it out", {"name": name})
        return rates


class Stopping(Section):
    """When a training run ends early; it keeps its last score."""

    patience: Fraction = 0.5
    """Share of the steps, after a task's ramp, by which a run must have left chance; 1 stops none."""
    chance: float = Field(default=0.02, ge=0, lt=1)
    """The highest score that luck reaches."""
    solved: Fraction = 0.99
    """A task is solved at this score, `in_a_row` times."""
    in_a_row: Positive = 2


class TaskSection(Section):
    """A proxy task. `kind` is its name unless it is given, so that a protocol can hold two of one kind.

    Beside these keys it has the dials of its kind; what is left out takes the kind's default
    (`archloom.evaluator.task_table`, or `archloom tasks`).
    """

    model_config = ConfigDict(extra="allow")

    name: str = Field(min_length=1)
    kind: str
    vocabulary: Positive
    length: Positive
    batch: Positive

    @model_validator(mode="before")
    @classmethod
    def _completed_from_its_kind(cls, given: object) -> object:
        name = given.get("kind", given.get("name")) if isinstance(given, dict) else None
        if not isinstance(given, dict) or not isinstance(name, str):
            return given
        if name not in KINDS:
            raise _misplaced((), f"should be named after its kind, or have a key `kind`; {alike(name, KINDS)}")
        kind = KINDS[name]
        ends = {"kind": name, "vocabulary": kind.vocabulary, "length": kind.length, "batch": kind.batch}
        return ends | {dial.name: dial.default for dial in kind.dials} | given

    @model_validator(mode="after")
    def _dials_in_range(self) -> Self:
        kind = KINDS[self.kind]
        for name, rule in faults(kind, self.dials):
            if rule is None:
                keys = (*(dial.name for dial in kind.dials), *type(self).model_fields)
                raise _misplaced((name,), f"unknown key; {alike(name, keys)}")
            raise _misplaced((name,), f"is {self.dials[name]!r} and {rule}")
        return self

    @property
    def dials(self) -> dict[str, Any]:
        """The settings of its kind."""
        return self.model_extra or {}


class StageSection(Section):
    """One task of a rung."""

    task: str
    """The name of one of `protocol.tasks`."""
    steps: Positive
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    """One training run for each."""


class RungSection(Section):
    """A level of spend."""

    stages: Annotated[tuple[StageSection, ...], Field(min_length=1)]
    keep: Fraction = 0.5
    """Share of the rung's candidates that rise to the next one."""


class ProtocolSection(Section):
    """Everything that fixes what a score means. A suite gives width, depth, tasks and rungs that are not given."""

    suite: str = ""
    """A named suite of proxy tasks (`archloom tasks`), or none."""
    width: Positive = 32
    """Model width of the reference, in channels."""
    depth: Positive = 2
    """Largest number of blocks."""
    reference: str = Field(default="mha", min_length=1)
    """A name of the zoo, or a term; its parameter count at `width` is what every candidate matches."""
    tolerance: Fraction = 0.02
    """Largest relative distance from that count."""
    training: Training = Training()
    stopping: Stopping = Stopping()
    tasks: Annotated[tuple[TaskSection, ...], Field(min_length=1)] = (
        TaskSection.model_validate({"name": "mqar"}),
        TaskSection.model_validate({"name": "text"}),
    )
    rungs: Annotated[tuple[RungSection, ...], Field(min_length=1)] = (
        RungSection(stages=(StageSection(task="mqar", steps=200),)),
        RungSection(stages=(StageSection(task="mqar", steps=300, seeds=(1,)), StageSection(task="text", steps=200))),
    )

    @model_validator(mode="before")
    @classmethod
    def _taken_from_its_suite(cls, given: object) -> object:
        name = given.get("suite") if isinstance(given, dict) else None
        if not isinstance(given, dict) or not isinstance(name, str) or not name:
            return _tuples(given)
        try:
            suite = suite_named(name)
        except ConfigError as problem:
            raise _misplaced(("suite",), str(problem)) from None
        if ("tasks" in given) != ("rungs" in given):
            raise _misplaced((), "a suite's tasks and rungs are replaced together, or not at all")
        return _tuples(suite.section() | given | {"suite": suite.title})

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        names = [task.name for task in self.tasks]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise _misplaced(("tasks", index, "name"), f"the task {name!r} is described twice")
        for r, rung in enumerate(self.rungs):
            for s, stage in enumerate(rung.stages):
                if stage.task not in names:
                    known = ", ".join(names)
                    raise _misplaced(
                        ("rungs", r, "stages", s, "task"), f"should be one of the protocol's tasks: {known}"
                    )
        return self


class Arms(Section):
    """Shares of the new candidates, in any unit. An arm that is not named takes no part."""

    evolution: float = Field(default=0.0, ge=0)
    random: float = Field(default=0.0, ge=0)
    language_model: float = Field(default=0.0, ge=0)


class Evolution(Section):
    """Regularised evolution (Real et al. 2019)."""

    population: int = Field(default=24, ge=2)
    tournament: int = Field(default=4, ge=1)
    crossover: float = Field(default=0.2, ge=0, le=1)
    """Share of the children with two parents."""

    @model_validator(mode="after")
    def _tournament_fits(self) -> Self:
        if self.tournament > self.population:
            raise _misplaced(("tournament",), f"should be at most the population, {self.population}")
        return self


class Search(Section):
    """How new candidates are proposed."""

    baselines: tuple[str, ...] | None = None
    """Names of the zoo that are trained beside the candidates. Without it, those of `zoo.STANDARD`."""
    lookahead: Positive = 8
    """Job n is decided from the results of the first n - lookahead jobs, so timing never changes a result."""
    max_size: Positive = 48
    """Nodes of the largest term."""
    arms: Arms = Arms(evolution=0.5, random=0.5)
    evolution: Evolution = Evolution()

    @property
    def shares(self) -> tuple[tuple[str, float], ...]:
        """The arms that take part and their shares, which add up to one."""
        amounts = [(name, amount) for name, amount in self.arms.model_dump().items() if amount > 0]
        total = sum(amount for _, amount in amounts)
        return tuple((name, amount / total) for name, amount in amounts)

    @field_validator("arms")
    @classmethod
    def _some_arm(cls, arms: Arms) -> Arms:
        if not any(arms.model_dump().values()):
            raise PydanticCustomError("arms", "no arm has a share; give one of evolution, random, language_model")
        return arms


class EndpointSection(Section):
    """A model behind a server that speaks the OpenAI API."""

    base_url: str = Field(pattern=r"^https?://")
    model: str = Field(min_length=1)
    """What the server calls it. Two sections of one name are refused."""
    key_variable: str = "OPENAI_API_KEY"
    """The environment variable that holds the key, "" for a server that needs none; the key itself is never stored."""


class ModelSection(EndpointSection):
    """A model that writes. What it costs must be written: prices are per million tokens, and `price` gives both."""

    prompt_price: float = Field(ge=0)
    completion_price: float = Field(ge=0)
    weight: float = Field(default=1.0, gt=0)
    """How much it is preferred to models that gain as much per cost."""
    structured: bool = True
    """Ask the server to hold the model to a JSON schema; what it refuses is asked for in plainer forms."""
    max_tokens: Positive = 8192
    """Most tokens of an answer, thoughts included."""
    deadline_seconds: float = Field(default=180.0, gt=0)
    """Longest time of a call with all its tries."""
    retries: int = Field(default=4, ge=0)
    """More tries of a call that was refused for load, failed on the server or was cut off."""
    concurrency: Positive = 4
    """Most calls at once."""

    @model_validator(mode="before")
    @classmethod
    def _is_priced(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given
        rest = {name: value for name, value in given.items() if name != "price"}
        if "price" in given:
            if {"prompt_price", "completion_price"} & set(given):
                raise _misplaced(("price",), "stands for both prices; leave the others out")
            return {**rest, "prompt_price": given["price"], "completion_price": given["price"]}
        if not {"prompt_price", "completion_price"} <= set(given):
            raise _misplaced(
                (),
                "no price, so nothing may be spent on it; write prompt_price and completion_price, per million tokens, "
                "or price = 0 for a server of your own",
            )
        return given


class EmbeddingsSection(EndpointSection):
    """A model of embeddings, to find knowledge by meaning too."""

    price: float = Field(ge=0)
    """Per million tokens; 0 must be written for a server of your own."""
    deadline_seconds: float = Field(default=60.0, gt=0)
    retries: int = Field(default=4, ge=0)


class LanguageModel(Section):
    """The language-model arm: what it is told, which roles take part, and the models."""

    goal: str = Field(
        default="Find token mixers that do better than the baselines on every task at the same number of parameters.",
        max_length=2000,
    )
    """What the campaign is for, in words."""
    models: Annotated[tuple[ModelSection, ...], Field(min_length=1)]
    """Which of them writes a proposal is chosen by gain per cost."""
    elites: Positive = 6
    """Candidates that are shown as parents."""
    repairs: int = Field(default=3, ge=0)
    """Times that a refused answer goes back with the reason; 0 leaves the role out."""
    critic: bool = True
    """Ask whether a close relative of what was tried is worth its cost."""
    analyst: bool = True
    """Draw a lesson from every candidate of this arm."""
    knowledge: bool = True
    """Show entries of the knowledge base and lessons."""
    by_hand: bool = False
    """Stop where a model would be asked, and take the answers of `archloom propose --from-file`; no key is needed."""
    embeddings: EmbeddingsSection | None = None
    """Without it, knowledge is found by its words alone."""
    lessons_from: tuple[str, ...] = ()
    """Campaigns of the same store whose lessons are known from the beginning."""
    novelty: Positive = 3
    """Operations by which a proposal differs from all that was tried if the critic is not to be asked."""

    @model_validator(mode="before")
    @classmethod
    def _of_tuples(cls, given: object) -> object:
        return _tuples(given)

    @model_validator(mode="after")
    def _embeddings_are_another_model(self) -> Self:
        if self.embeddings and self.embeddings.model in [model.model for model in self.models]:
            raise _misplaced(("embeddings", "model"), "is one of the models that write; name a model of embeddings")
        return self

    @field_validator("models")
    @classmethod
    def _told_apart(cls, models: tuple[ModelSection, ...]) -> tuple[ModelSection, ...]:
        for index, model in enumerate(models):
            if model.model in [each.model for each in models[:index]]:
                raise _misplaced((index, "model"), f"{model.model!r} is described twice")
        return models


class Executor(Section):
    """Where trials run, and what they and the store are allowed."""

    kind: Literal["ray", "process", "inline"] = "ray"
    workers: int = Field(default=0, ge=0)
    """Zero: one for every core."""
    timeout_seconds: float = Field(default=120.0, gt=0)
    """Longest time of one evaluation."""
    memory_gib: float | None = Field(default=None, ge=1)
    """Memory of one worker, which has no GPU; a trial that asks for more fails. Without it there is no limit."""
    patience_seconds: float = Field(default=300.0, ge=0)
    """How long a store that is out of reach is waited for, while the workers go on."""
    kernels: Literal["chunked", "triton"] = "chunked"
    """Plain PyTorch on any device, or kernels of our own, which need GPUs."""


class Ray(Section):
    """Used by the `ray` executor only."""

    address: str = ""
    """Empty: a local session, bound to loopback."""
    gpus_per_worker: float = Field(default=0.0, ge=0)


class Config(Section):
    """A resolved campaign file."""

    campaign: CampaignSection
    budget: Budget = Budget()
    protocol: ProtocolSection = ProtocolSection()
    search: Search = Search()
    language_model: LanguageModel | None = None
    executor: Executor = Executor()
    ray: Ray = Ray()

    @model_validator(mode="after")
    def _language_model_is_described(self) -> Self:
        if self.search.arms.language_model > 0 and self.language_model is None:
            rule = "needs a [language_model] section with a [[language_model.models]] of base_url, model and price"
            raise _misplaced(("search", "arms", "language_model"), rule)
        return self

    @staticmethod
    def load(
        path: str, overrides: Sequence[str] = (), options: Mapping[str, tuple[object, str]] | None = None
    ) -> "Resolved":
        """Read a campaign file; see `archloom.resolve.load`."""
        from archloom import resolve

        return resolve.load(path, overrides=overrides, options=options or {})

    def renamed(self, name: str) -> Self:
        """The same configuration under another campaign name."""
        return self.model_copy(update={"campaign": self.campaign.model_copy(update={"name": name})})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The configuration that `to_json` wrote."""
        return cls.model_validate_json(text, strict=True)

    def to_json(self) -> str:
        """Every key, sorted by name."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True)

    @property
    def hash(self) -> str:
        """SHA-256 of `to_json`, in hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()
