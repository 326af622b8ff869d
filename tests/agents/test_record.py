"""The record of calls: reserved before they are sent, settled by their answers, paid once, limited exactly."""

import json
from dataclasses import replace
from fractions import Fraction
from random import Random
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archloom.agents.language_model.endpoints import CallFailed, Model, Reply
from archloom.agents.language_model.record import Limits, NotRecorded, Record, Request, Spending, price
from archloom.agents.proposer import ProposerFailed
from archloom.db.records import BILLION, LanguageModelCall, Role

from .laboratory import Kept, Voice, completion, model

TINY = model(max_tokens=100)
UNLIMITED = Limits()


def request(text: str = "write", *, seed: int = 1, ask: int = 1, role: Role = Role.RESEARCHER) -> Request:
    return Request(
        role=role,
        messages=({"role": "user", "content": text},),
        seed=seed,
        ask=ask,
    )


def record(
    voice: Voice, kept: Kept, *, known: tuple[LanguageModelCall, ...] = (), limits: Limits = UNLIMITED
) -> Record:
    return Record({"tiny": voice}, known=known, reserve=kept.reserve, settle=kept.settle, limits=limits)  # type: ignore[dict-item]


def researcher(*answers: str | Reply | CallFailed) -> Voice:
    return Voice({"researcher": list(answers)})


def test_a_call_is_reserved_at_its_most_and_settled_by_what_it_took() -> None:
    kept = Kept()
    ledger = record(researcher("yes"), kept)
    text, when = ledger.answer(TINY, request())
    (call,) = kept.calls.values()
    assert (text, kept.steps, call.at) == ("yes", ["reserve", "settle"], when)
    assert (call.prompt_tokens, call.completion_tokens, call.response) == (11, 7, completion("yes"))
    assert call.cost == (11 * 3 + 7 * 15) * 1000  # prices are per million, costs in billionths
    assert ledger.spent == (18, call.cost)
    assert json.loads(call.request)["max_completion_tokens"] == 100


def test_what_is_in_flight_counts_at_its_most() -> None:
    kept = Kept()
    seen: list[tuple[int, int]] = []

    class Watching(Voice):
        def complete(self, body, *, again=lambda: True):  # type: ignore[no-untyped-def]
            seen.append(ledger.spent)
            return super().complete(body, again=again)

    ledger = record(Watching({"researcher": ["yes"]}), kept)
    ledger.answer(TINY, request())
    most = len(json.dumps(request().body(TINY), sort_keys=True).encode()) + 16
    assert seen == [(most + 100, price(TINY, most, 100))]


def test_what_is_on_record_is_asked_once_and_never_paid_again() -> None:
    kept, voice = Kept(), researcher("yes")
    ledger = record(voice, kept)
    first = ledger.answer(TINY, request())
    assert ledger.answer(TINY, request()) == first
    again = record(researcher(), Kept(), known=tuple(kept.calls.values()))
    assert again.answer(TINY, request()) == first
    assert again.spent == ledger.spent
    assert len(voice.heard) == 1


def test_a_call_lost_with_its_process_is_made_again_and_counted_twice() -> None:
    """Its server may have charged for it: the reservation stands."""
    kept = Kept()

    class Killed(Exception):
        pass

    class Dying(Voice):
        def complete(self, body, *, again=lambda: True):  # type: ignore[no-untyped-def]
            raise Killed

    with pytest.raises(Killed):
        record(Dying({}), kept).answer(TINY, request())
    (lost,) = kept.calls.values()
    assert lost.response is None
    ledger = record(researcher("yes"), kept, known=(lost,))
    assert ledger.answer(TINY, request())[0] == "yes"
    assert len(kept.calls) == 2
    assert ledger.spent == (lost.prompt_tokens + lost.completion_tokens + 18, lost.cost + price(TINY, 11, 7))


def test_a_recorded_failure_fails_again_without_the_network_until_there_is_an_answer() -> None:
    kept, voice = Kept(), researcher(CallFailed("busy", status=503))
    ledger = record(voice, kept)
    for _ in range(2):
        with pytest.raises(CallFailed, match="busy") as failed:
            ledger.answer(TINY, request())
        assert failed.value.status == 503
    assert len(voice.heard) == 1
    (call,) = kept.calls.values()
    assert (call.prompt_tokens, call.completion_tokens, call.cost) == (0, 0, 0)
    by_hand = replace(call, key="by hand", response=completion("mine"))
    assert Record({}, known=(call, by_hand)).answer(TINY, request())[0] == "mine"
    assert Record({}, known=(by_hand, call)).answer(TINY, request())[0] == "mine"


def test_without_clients_only_the_record_answers() -> None:
    kept = Kept()
    record(researcher("yes"), kept).answer(TINY, request())
    offline = Record({}, known=kept.calls.values())
    assert offline.answer(TINY, request())[0] == "yes"
    with pytest.raises(NotRecorded, match="no answer of tiny"):
        offline.answer(TINY, request(seed=2))


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_model_whose_server_will_never_answer_is_asked_once(status: int) -> None:
    kept, voice = Kept(), researcher(CallFailed("no such key", status=status))
    ledger = record(voice, kept)
    for seed in range(3):
        with pytest.raises(CallFailed, match="no such key"):
            ledger.answer(TINY, request(seed=seed))
    assert len(voice.heard) == len(kept.calls) == 1
    assert "no such key" in ledger.off(TINY)


def test_an_answer_without_a_count_costs_what_was_reserved() -> None:
    kept = Kept()
    ledger = record(researcher(Reply(text=completion("yes", usage=None), seconds=0.1)), kept)
    ledger.answer(TINY, request())
    (call,) = kept.calls.values()
    assert call.completion_tokens == 100
    assert call.cost == price(TINY, call.prompt_tokens, 100)


def test_tries_that_may_have_been_charged_are_counted_and_need_room() -> None:
    class Losing(Voice):
        def complete(self, body, *, again=lambda: True):  # type: ignore[no-untyped-def]
            lost = 0
            while lost < 3 and again():
                lost += 1
            if lost < 3:
                raise CallFailed("half an answer", lost=lost + 1)
            return Reply(text=completion("yes"), seconds=0.1, lost=lost)

    kept = Kept()
    ledger = record(Losing({}), kept)
    ledger.answer(TINY, request())
    (call,) = kept.calls.values()
    most = len(call.request.encode()) + 16
    assert call.prompt_tokens == 11 + 3 * most
    assert call.completion_tokens == 7 + 3 * 100
    assert call.cost == price(TINY, 11, 7) + 3 * price(TINY, most, 100)
    assert kept.steps == ["reserve", *["settle"] * 4]
    # Room for two tries: the third is not made, and both that were made are counted.
    ledger = record(Losing({}), Kept(), limits=Limits(tokens=2 * (most + 100)))
    with pytest.raises(CallFailed, match="half"):
        ledger.answer(TINY, request())
    assert ledger.spent[0] == 2 * (most + 100)


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        (Limits(tokens=1_500), "budget.tokens = 1,500"),
        (Limits(cost=8_000_000), "budget.money = 0.008: 0.0"),
    ],
)
def test_a_limit_is_never_passed(limits: Limits, told: str) -> None:
    kept, voice = Kept(), researcher(*["yes"] * 1000)
    ledger = record(voice, kept, limits=limits)

    def spend() -> None:
        for seed in range(1000):
            ledger.answer(TINY, request(seed=seed))
            assert ledger.spent[0] <= (limits.tokens or 10**9)
            assert ledger.spent[1] <= (limits.cost or 10**18)

    with pytest.raises(ProposerFailed, match=told):
        spend()
    assert len(voice.heard) == len(kept.calls) > 3


@given(
    prompt=st.integers(0, 10**7),
    completion_=st.integers(0, 10**6),
    prices=st.tuples(*[st.decimals(0, 1000, places=4)] * 2),
)
def test_prices_are_exact(prompt: int, completion_: int, prices: tuple) -> None:  # type: ignore[type-arg]
    one = model(prompt_price=float(prices[0]), completion_price=float(prices[1]))
    exact = (prompt * Fraction(prices[0]) + completion_ * Fraction(prices[1])) * BILLION / 1_000_000
    assert 0 <= price(one, prompt, completion_) - exact < 1


def test_many_threads_keep_one_account() -> None:
    kept = Kept()
    ledger = record(researcher(*["yes"] * 64), kept)
    work = [Thread(target=ledger.answer, args=(TINY, request(seed=seed, ask=seed % 4))) for seed in range(64)]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert len(kept.calls) == 64
    assert ledger.spent == (64 * 18, 64 * price(TINY, 11, 7))
    assert ledger.asked(2) == ("tiny",)
    assert ledger.spending == {"tiny": Spending(proposals=4, tokens=64 * 18, cost=64 * price(TINY, 11, 7))}


def test_what_was_studied_is_known_as_it_was_when_a_proposal_began() -> None:
    kept = Kept()
    ledger = record(Voice({"researcher": ["yes"], "analyst": ["one", CallFailed("busy", status=503)]}), kept)
    ledger.answer(TINY, replace(request(role=Role.ANALYST, ask=1), subject="a"))
    ledger.answer(TINY, request(ask=2))
    with pytest.raises(CallFailed):
        ledger.answer(TINY, replace(request(role=Role.ANALYST, ask=3, seed=9), subject="b"))
    for known in (ledger, Record({}, known=kept.calls.values())):
        assert [known.studied(ask) for ask in (1, 2, 3, 4)] == [frozenset(), {"a"}, {"a"}, {"a", "b"}]
        assert known.asked(1) == known.asked(3) == ("tiny",)


def test_grades_are_paid_for_and_count_for_no_proposal() -> None:
    kept = Kept()
    ledger = record(Voice({"researcher": ["yes"], "grader": ["ten"]}), kept)
    ledger.answer(TINY, request())
    before = ledger.spending
    ledger.answer(TINY, request(role=Role.GRADER, ask=9))
    assert ledger.spending == before
    assert ledger.spent[0] == 36


@given(st.text(max_size=200), st.integers(0, 2**31))
def test_whatever_a_server_sends_is_an_answer_or_a_failure(text: str, seed: int) -> None:
    spoiled = bytearray(completion(text).encode())
    rng = Random(seed)
    for _ in range(rng.randrange(4)):
        spoiled[rng.randrange(len(spoiled))] = rng.randrange(256)
    kept = Kept()
    ledger = record(researcher(Reply(text=bytes(spoiled).decode("utf-8", "replace"), seconds=0.0)), kept)
    try:
        first = ledger.answer(TINY, request())
    except ProposerFailed as problem:
        with pytest.raises(type(problem)):
            Record({}, known=kept.calls.values()).answer(TINY, request())
    else:
        assert Record({}, known=kept.calls.values()).answer(TINY, request()) == first


def test_a_body_that_imitates_a_failure_is_only_an_answer_that_is_none() -> None:
    text = '{"error": {"message": "no", "status": "401"}}'
    kept = Kept()
    ledger = record(researcher(Reply(text=text, seconds=0.0)), kept)
    with pytest.raises(ProposerFailed, match="no"):
        ledger.answer(TINY, request())
    assert ledger.off(TINY) == ""


def test_the_schema_is_asked_for_only_where_the_server_knows_it() -> None:
    plain = Model(**{**{name: getattr(TINY, name) for name in TINY.__slots__}, "structured": False})
    assert "response_format" in request().body(TINY)
    assert "response_format" not in request().body(plain)
