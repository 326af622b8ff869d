"""What tests of the language-model arm share: a model that says what it is told, and trials to show it."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from archloom.agents.language_model.endpoints import CallFailed, Model, Reply
from archloom.db.records import (
    Candidate,
    EvaluationKey,
    Failure,
    FailureKind,
    LanguageModelCall,
    Origin,
    Protocol,
    Result,
    Rung,
    Stage,
    Task,
    Trial,
)
from archloom.search_space import zoo
from archloom.search_space.identity import canonical, term_id
from archloom.search_space.sampling import Sampler
from archloom.search_space.text import parse

SAMPLER = Sampler.default(depth=2)
WHEN = datetime(2026, 1, 1, tzinfo=UTC)
GOOD = "mix(apply(masked(dot(elu1(project(x)), elu1(project(x))), visible), value(x)), heads=2)"
OTHER = GOOD.replace("elu1", "relu")
WRONG = "mix(apply(dot(project(x), project(x)), value(x)), heads=2)"
FAR = (
    "mix(apply(rownorm(masked(exp(dot(rotary(project(x)), rotary(project(x)))), window(width=16))), "
    "silu(conv(value(x)))), heads=4)"
)
PROTOCOL = Protocol(
    version=2,
    grammar=1,
    reference=zoo.load("mha").text,
    width=32,
    depth=2,
    tasks=tuple(Task(name=name, vocabulary=64, length=32, batch=8) for name in ("mqar", "text")),
    rungs=(Rung(stages=(Stage(task="mqar", steps=10), Stage(task="text", steps=10))),),
    baselines=(("mha", zoo.load("mha").text),),
)


def model(name: str = "tiny", *, prompt_price: float = 3.0, completion_price: float = 15.0, **changed: Any) -> Model:
    return Model(
        name=name,
        base_url=f"http://{name}.test/v1",
        prompt_price=prompt_price,
        completion_price=completion_price,
        **changed,
    )


def completion(text: str, *, usage: tuple[int, int] | None = (11, 7)) -> str:
    """The body of a server's answer."""
    body: dict[str, Any] = {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}
    if usage is not None:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    return json.dumps(body)


def proposal(term: str = "", **changed: object) -> str:
    """A researcher's answer."""
    whole = {"hypothesis": "because", "term": term, "parent": "", "edits": [], "predictions": [], "cites": []}
    return json.dumps({**whole, **changed})


def lesson(text: str) -> str:
    return json.dumps({"lesson": text})


def verdict(novel: bool, reason: str = "as it is") -> str:
    return json.dumps({"novel": novel, "reason": reason})


@dataclass
class Voice:
    """A client without a network: its answers are texts, whole bodies (as `Reply`) or failures, by the role asked."""

    says: Mapping[str, list[str | Reply | CallFailed]]
    heard: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)

    def complete(self, body: Mapping[str, Any], *, again: Callable[[], bool] = lambda: True) -> Reply:
        role = body["response_format"]["json_schema"]["name"]
        self.heard.append((role, body))
        answer = self.says[role].pop(0)
        if isinstance(answer, CallFailed):
            raise answer
        return answer if isinstance(answer, Reply) else Reply(text=completion(answer), seconds=0.1)

    @property
    def roles(self) -> list[str]:
        return [role for role, _ in self.heard]

    def told(self, number: int) -> str:
        """The last message of a request."""
        return str(self.heard[number][1]["messages"][-1]["content"])


@dataclass
class Kept:
    """A ledger in memory: what is reserved and what is settled, in order."""

    calls: dict[str, LanguageModelCall] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)

    def reserve(self, call: LanguageModelCall) -> None:
        assert call.key not in self.calls
        self.steps.append("reserve")
        self.calls[call.key] = call

    def settle(self, call: LanguageModelCall) -> None:
        assert call.key in self.calls
        self.steps.append("settle")
        self.calls[call.key] = call


def trial(
    mixer: str,
    index: int,
    scores: Sequence[float] | None,
    *,
    origin: Origin = Origin.LANGUAGE_MODEL,
    **of_candidate: Any,
) -> Trial:
    """`scores` on the tasks of `PROTOCOL`; None for one that diverged."""
    term = canonical(zoo.as_architecture(parse(mixer), depth=2))
    key = lambda task: EvaluationKey(candidate=term_id(term), task=task, rung=0, seed=0)  # noqa: E731
    failure = Failure(kind=FailureKind.DIVERGED, reason="the loss is NaN")
    results = (
        tuple(
            Result(key=key(task.name), score=score, metrics={}, failure=None, seconds=1.0)
            for task, score in zip(PROTOCOL.tasks, scores, strict=True)
        )
        if scores is not None
        else (Result(key=key("mqar"), score=None, metrics={}, failure=failure, seconds=1.0),)
    )
    if origin is Origin.LANGUAGE_MODEL:
        of_candidate = {"author": "tiny", **of_candidate}
    return Trial(
        candidate=Candidate(id=term_id(term), term=term.text, origin=origin, index=index, **of_candidate),
        results=results,
    )


def architecture_of(mixer: str) -> str:
    return canonical(zoo.as_architecture(parse(mixer), depth=2)).text
