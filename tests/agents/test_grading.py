"""The grader: what counts as a grade, and that a story is asked about once for each answer that is needed."""

import json
from dataclasses import astuple, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archloom.agents.language_model.answers import MAX_NAME, SCHEMAS, Grade, grader
from archloom.agents.language_model.endpoints import Model
from archloom.agents.language_model.grading import MAX_SHOWN, grade
from archloom.agents.language_model.record import NotRecorded, Record, Request
from archloom.agents.proposer import ProposerFailed
from archloom.db.records import LanguageModelCall, Role
from archloom.search_space.terms import TermError

GOOD = {"grammar": 7, "creativity": 1, "consistency": 10, "age": "six"}
MODEL = Model(name="teacher", base_url="http://127.0.0.1:9/v1", prompt_price=1.0, completion_price=2.0)


def read(**changes: object) -> Grade:
    return grader(json.dumps(GOOD | changes))


def test_a_grade_is_read_with_its_ends_and_without_an_age() -> None:
    wanted = Grade(grammar=7.0, creativity=1.0, consistency=10.0, age="six")
    assert read() == wanted
    assert grader(f"I think:\n```json\n{json.dumps(GOOD)}\n```\nas it were") == wanted
    assert read(age=None).age == ""
    assert read(grammar=7.25, more="is not read").grammar == 7.25
    assert read(age="very old " * 100).age == ("very old " * 100)[: MAX_NAME - 1].rstrip() + "…"
    schema = SCHEMAS[Role.GRADER]
    assert set(schema["required"]) == set(GOOD)
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize(
    "wrong", [0, 0.99, 10.01, 85, -3, 10**400, True, None, "7", [7], {"of": 7}, float("nan"), float("inf")]
)
def test_what_is_no_number_from_1_to_10_is_refused_by_name(wrong: object) -> None:
    with pytest.raises(TermError, match="creativity") as refusal:
        read(creativity=wrong)
    assert len(str(refusal.value)) < 200
    assert "grammar" not in str(refusal.value)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_whatever_an_answer_holds_it_is_a_grade_within_bounds_or_a_refusal(value: object) -> None:
    for text in (json.dumps(GOOD | {"grammar": value}), json.dumps(GOOD | {"age": value}), str(value)):
        try:
            found = grader(text)
        except TermError:
            continue
        assert all(1 <= each <= 10 for each in astuple(found)[:3])
        assert found.age.isprintable()
        assert len(found.age) <= MAX_NAME


# -- asking, over records of answers that were given earlier -----------------------------------------------------------


class Answered(Record):
    """A record that gives these answers, one after the other, and keeps the requests."""

    def __init__(self, *answers: str) -> None:
        super().__init__({})
        self.left, self.requests = list(answers), list[Request]()

    def answer(self, model: Model, request: Request) -> tuple[str, Any]:
        self.requests.append(request)
        return self.left.pop(0), None


def asked(record: Record, *, repairs: int = 1) -> Grade:
    return grade(record, MODEL, beginning="once", continuation="they ran .", seed=5, ask=9, repairs=repairs)


def test_a_refused_answer_goes_back_cut_with_its_reason_as_often_as_is_said() -> None:
    wrong = "x" * 10_000
    record = Answered(wrong, json.dumps(GOOD))
    assert asked(record).consistency == 10
    first, second = record.requests
    assert (first.role, first.prompt, first.seed, first.ask) == (Role.GRADER, "grader/1", 5, 9)
    assert second.messages[:2] == first.messages
    assert second.messages[2] == {"role": "assistant", "content": "x" * MAX_SHOWN}
    assert "one JSON object" in second.messages[3]["content"]
    for repairs in (0, 2):
        record = Answered(*[wrong] * 3)
        with pytest.raises(ProposerFailed, match=f"no grade in {repairs + 1} answers"):
            asked(record, repairs=repairs)
        assert len(record.requests) == repairs + 1


def test_a_record_without_clients_answers_what_it_knows_and_passes_over_calls_that_failed() -> None:
    """Two calls failed and the third was answered: its request differs from theirs by the seed alone."""
    requests: list[Request] = []

    class Listening(Record):
        def answer(self, model: Model, request: Request) -> tuple[str, Any]:
            requests.append(request)
            return super().answer(model, request)

    with pytest.raises(NotRecorded):
        asked(Listening({}))
    failed = json.dumps({"error": {"message": "out of order", "status": 500}})
    good = json.dumps({"choices": [{"message": {"content": json.dumps(GOOD)}}]})
    known = [recorded(requests[0], seed=5 + turn, response=each) for turn, each in enumerate((failed, failed, good))]
    assert asked(Listening({}, known=known)) == read()
    assert [request.seed for request in requests[1:]] == [5, 6, 7]
    with pytest.raises(NotRecorded):
        asked(Listening({}, known=known[:2]))


def recorded(request: Request, *, seed: int, response: str) -> LanguageModelCall:
    return LanguageModelCall(
        key=str(seed),
        at=datetime.now(UTC),
        role=Role.GRADER,
        prompt="grader/1",
        endpoint=MODEL.base_url,
        model=MODEL.name,
        ask=9,
        request=json.dumps(replace(request, seed=seed).body(MODEL), sort_keys=True),
        response=response,
        prompt_tokens=1,
        completion_tokens=1,
        cost=1,
        seconds=0.0,
    )
