"""What every ledger does, whatever database it is in: the conformance suite of `Store`."""

import math
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from archloom.db.columns import storable
from archloom.db.records import (
    GATES,
    Attempt,
    Campaign,
    CampaignState,
    Candidate,
    EvaluationKey,
    Failure,
    FailureKind,
    LanguageModelCall,
    Lesson,
    Measurement,
    Origin,
    Protocol,
    Role,
    Series,
    TrialSpec,
)
from archloom.db.store import Store
from archloom.errors import ConfigError, NotFoundError

MakeCampaign = Callable[..., Campaign]
MakeCandidate = Callable[..., Candidate]
MakeSpec = Callable[..., TrialSpec]
MakeMeasurement = Callable[..., Measurement]


def claimed(store: Store, key: EvaluationKey, *, worker: str = "w", lease_seconds: float = 60) -> Attempt:
    attempt = store.claim("first", key, worker=worker, lease_seconds=lease_seconds)
    assert attempt is not None
    return attempt


def measured(key: EvaluationKey, *, score: float = 0.5) -> Measurement:
    return Measurement(key=key, score=score, metrics={}, environment={}, seconds=1.0)


# Campaigns


def test_campaign_comes_back_equal(
    store: Store, location: str, protocol: Protocol, make_campaign: MakeCampaign
) -> None:
    east = timezone(timedelta(hours=5, minutes=30))
    campaign = make_campaign("second", created=datetime(2026, 3, 1, 2, 0, 0, 123456, tzinfo=east))
    store.create_campaign(campaign, protocol=protocol)
    with Store.open(location) as again:
        found = again.campaign("second")
        assert found == campaign
        assert found.created.utcoffset() == timedelta(0)
        assert again.protocol(found.protocol) == protocol


def test_campaigns_are_listed_oldest_first_and_the_latest_is_the_default(
    store: Store, protocol: Protocol, make_campaign: MakeCampaign
) -> None:
    for name, day in (("newest", 20), ("middle", 10)):
        created = datetime(2026, 2, day, tzinfo=UTC)
        store.create_campaign(make_campaign(name, created=created), protocol=protocol)
    assert [campaign.name for campaign in store.campaigns()] == ["first", "middle", "newest"]
    assert store.campaign().name == "newest"


def test_taken_campaign_name_is_refused_and_nothing_changes(
    store: Store, protocol: Protocol, make_campaign: MakeCampaign
) -> None:
    with pytest.raises(ConfigError, match="'first'"):
        store.create_campaign(replace(make_campaign("first"), seed=7), protocol=protocol)
    assert store.campaigns() == (make_campaign("first"),)


def test_campaign_under_another_protocol_is_refused(
    store: Store, protocol: Protocol, make_campaign: MakeCampaign
) -> None:
    with pytest.raises(ValueError, match="protocol"):
        store.create_campaign(make_campaign("x"), protocol=replace(protocol, width=64))


def test_naive_time_is_refused(store: Store, protocol: Protocol, make_campaign: MakeCampaign) -> None:
    naive = datetime(2026, 1, 1)
    with pytest.raises(Exception, match="time zone"):
        store.create_campaign(make_campaign("x", created=naive), protocol=protocol)


def test_unknown_names_say_what_there_is(store: Store, protocol: Protocol) -> None:
    for ask in (
        lambda: store.campaign("nope"),
        lambda: store.history("nope"),
        lambda: store.add_event("nope", kind="note", text=""),
        lambda: store.heartbeat("nope", owner="a", wall_seconds=0.0),
    ):
        with pytest.raises(NotFoundError, match=r"'nope'.*first"):
            ask()
    with pytest.raises(NotFoundError, match=protocol.id):
        store.protocol("nope")


# Candidates


def test_candidate_comes_back_equal(store: Store, make_candidate: MakeCandidate) -> None:
    parents = ("b" * 64, "a" * 64, "b" * 64)
    child = make_candidate(
        1, origin=Origin.LANGUAGE_MODEL, parents=parents, rationale="décroît \N{GREEK SMALL LETTER LAMDA}"
    )
    child = replace(child, operator="crossover")
    store.add_candidate("first", child)
    store.add_candidate("first", make_candidate(0, name="zoo/delta", origin=Origin.ZOO))
    assert store.candidates("first") == (make_candidate(0, name="zoo/delta", origin=Origin.ZOO), child)


def test_adding_the_same_candidate_again_is_harmless(store: Store, make_candidate: MakeCandidate) -> None:
    candidate = make_candidate(0, parents=("b", "a"), rationale="half a pair \ud800 and \0")
    store.add_candidate("first", candidate)
    store.add_candidate("first", candidate)
    assert [found.id for found in store.candidates("first")] == [candidate.id]


@pytest.mark.parametrize("change", [{"rationale": "other"}, {"index": 1}, {"id": "f" * 64}, {"parents": ("a", "b")}])
def test_another_candidate_in_its_place_is_refused(
    store: Store, make_candidate: MakeCandidate, change: dict[str, object]
) -> None:
    candidate = make_candidate(0, parents=("b", "a"))
    store.add_candidate("first", candidate)
    with pytest.raises(ConfigError, match=candidate.short):
        store.add_candidate("first", replace(candidate, **change))
    assert store.candidates("first") == (candidate,)


def test_candidate_is_found_by_unique_prefix_or_name(store: Store, make_candidate: MakeCandidate) -> None:
    two = [replace(make_candidate(n, name=name), id=start + "0" * 60) for n, (start, name) in
           enumerate([("abcd", "delta"), ("abce", None)])]  # fmt: skip
    for candidate in two:
        store.add_candidate("first", candidate)
    assert store.candidate("abcd") == store.candidate("delta") == two[0]
    assert store.candidate("abce0", campaign="first") == two[1]
    for ambiguous in ("ab", "abc"):
        with pytest.raises(NotFoundError, match=r"several.*abcd0000 \(delta\).*more letters"):
            store.candidate(ambiguous)
    for absent in ("ABCD", "abc%", "abc_", "d", ""):
        with pytest.raises(NotFoundError, match=r"no candidate.*which holds: abcd0000"):
            store.candidate(absent)


def test_ambiguous_prefix_lists_no_more_than_five(store: Store, make_candidate: MakeCandidate) -> None:
    for number in range(7):
        store.add_candidate("first", replace(make_candidate(number), id=f"ab{number}" + "0" * 61))
    with pytest.raises(NotFoundError) as refused:
        store.candidate("ab")
    assert sum(f"ab{number}00000" in str(refused.value) for number in range(7)) == 5


def test_one_hash_in_two_campaigns_is_not_ambiguous(
    store: Store, protocol: Protocol, make_campaign: MakeCampaign, make_candidate: MakeCandidate
) -> None:
    store.create_campaign(make_campaign("second"), protocol=protocol)
    candidate = make_candidate(0)
    store.add_candidate("first", candidate)
    store.add_candidate("second", replace(candidate, index=5))
    assert store.candidate(candidate.short).index == 5
    assert store.candidate(candidate.short, campaign="first").index == 0


# Evaluations


def test_planning_again_changes_nothing(store: Store, planned: EvaluationKey, make_spec: MakeSpec) -> None:
    store.finish("first", claimed(store, planned), measured(planned))
    candidate = store.candidates("first")[0]
    store.plan("first", [make_spec(candidate, steps=99), make_spec(candidate, seed=2**33)])
    assert store.steps("first", planned) == 250
    assert store.claim("first", planned, worker="w", lease_seconds=60) is None
    assert claimed(store, replace(planned, seed=2**33)).number == 1


def test_planning_many_at_once(store: Store, make_candidate: MakeCandidate, make_spec: MakeSpec) -> None:
    candidate = make_candidate(0)
    store.add_candidate("first", candidate)
    specs = [make_spec(candidate, seed=seed) for seed in range(1201)]
    store.plan("first", specs)
    assert store.query("SELECT count(*) AS planned FROM evaluations") == (("planned",), [(1201,)])


def test_what_was_not_planned_is_not_found(
    store: Store, planned: EvaluationKey, make_candidate: MakeCandidate, make_spec: MakeSpec
) -> None:
    other = replace(planned, seed=5)
    for ask in (
        lambda: store.claim("first", other, worker="w", lease_seconds=1),
        lambda: store.measurement("first", other),
        lambda: store.steps("first", other),
    ):
        with pytest.raises(NotFoundError, match="seed 5"):
            ask()
    with pytest.raises(NotFoundError, match="not finished"):
        store.measurement("first", planned)
    with pytest.raises(NotFoundError, match="no candidate"):
        store.plan("first", [make_spec(make_candidate(77))])
    assert store.attempts("first", other) == 0


def test_leased_evaluation_is_not_given_twice(store: Store, planned: EvaluationKey) -> None:
    before = datetime.now(UTC)
    attempt = claimed(store, planned, worker="a", lease_seconds=60)
    assert (attempt.number, attempt.worker, attempt.key) == (1, "a", planned)
    assert timedelta(seconds=60) <= attempt.expires - before < timedelta(seconds=70)
    assert store.claim("first", planned, worker="b", lease_seconds=60) is None
    assert store.attempts("first", planned) == 1


def test_lease_that_ran_out_goes_to_the_next(store: Store, planned: EvaluationKey) -> None:
    late = claimed(store, planned, worker="late", lease_seconds=-1)
    second = claimed(store, planned, worker="second")
    assert second.number == 2
    assert store.finish("first", late, measured(planned, score=0.1)) is False
    assert store.finish("first", second, measured(planned, score=0.9)) is True
    assert store.measurement("first", planned).score == 0.9
    outcomes = store.query("SELECT worker, outcome FROM attempts ORDER BY number")[1]
    assert outcomes == [("late", "expired"), ("second", "done")]


def test_slow_worker_counts_while_nobody_took_over(store: Store, planned: EvaluationKey) -> None:
    late = claimed(store, planned, lease_seconds=-1)
    assert store.finish("first", late, measured(planned)) is True


def test_renewed_lease_holds(store: Store, planned: EvaluationKey) -> None:
    attempt = claimed(store, planned, lease_seconds=-1)
    store.renew([attempt], lease_seconds=60)
    assert store.claim("first", planned, worker="b", lease_seconds=60) is None
    store.renew([], lease_seconds=60)


def test_attempt_that_lost_its_lease_cannot_renew_it(store: Store, planned: EvaluationKey) -> None:
    lost = claimed(store, planned, lease_seconds=-1)
    holder = claimed(store, planned, lease_seconds=-1)
    store.renew([lost], lease_seconds=60)
    assert claimed(store, planned).number == 3
    assert store.finish("first", holder, measured(planned)) is False


def test_second_finish_is_refused_and_changes_nothing(store: Store, planned: EvaluationKey) -> None:
    attempt = claimed(store, planned)
    series = (Series(name="loss", steps=(1,), values=(2.0,)),)
    first = replace(measured(planned, score=0.25), series=series)
    assert store.finish("first", attempt, first) is True
    before = store.query("SELECT * FROM evaluations"), store.query("SELECT * FROM attempts")
    assert store.finish("first", attempt, replace(first, score=0.75)) is False
    store.abandon("first", attempt, reason="too late")
    store.renew([attempt], lease_seconds=600)
    assert store.expire("first") == 0
    assert store.claim("first", planned, worker="b", lease_seconds=60) is None
    assert (store.query("SELECT * FROM evaluations"), store.query("SELECT * FROM attempts")) == before
    assert store.measurement("first", planned) == first


def test_answer_to_another_question_is_an_error(store: Store, planned: EvaluationKey) -> None:
    attempt = claimed(store, planned)
    with pytest.raises(ValueError, match="does not answer"):
        store.finish("first", attempt, measured(replace(planned, seed=9)))


def test_finish_that_fails_half_way_leaves_nothing(store: Store, planned: EvaluationKey) -> None:
    attempt = claimed(store, planned)
    crooked = replace(measured(planned), series=(Series(name="loss", steps=(1, 2), values=(0.5,)),))
    with pytest.raises(ValueError, match="zip"):
        store.finish("first", attempt, crooked)
    assert store.history("first")[0].results == ()
    assert store.finish("first", attempt, measured(planned)) is True


def test_abandoned_evaluation_is_pending_again_and_the_attempt_recorded(store: Store, planned: EvaluationKey) -> None:
    lost = claimed(store, planned, worker="lost")
    store.abandon("first", lost, reason="signal 9")
    assert store.finish("first", lost, measured(planned)) is False
    assert store.attempts("first", planned) == 1
    assert claimed(store, planned).number == 2
    assert store.query("SELECT outcome, reason FROM attempts WHERE worker = 'lost'")[1] == [("abandoned", "signal 9")]


def test_expire_frees_every_lease_of_its_campaign_alone(
    store: Store, planned: EvaluationKey, protocol: Protocol, make_campaign: MakeCampaign, make_spec: MakeSpec
) -> None:
    candidate = store.candidates("first")[0]
    store.create_campaign(make_campaign("second"), protocol=protocol)
    store.add_candidate("second", candidate)
    store.plan("second", [make_spec(candidate)])
    store.plan("first", [make_spec(candidate, seed=1)])
    assert store.claim("second", planned, worker="w", lease_seconds=60)
    orphan = claimed(store, planned)
    claimed(store, replace(planned, seed=1))
    assert store.expire("first") == 2
    assert store.finish("first", orphan, measured(planned)) is False
    assert claimed(store, planned).number == 2
    assert store.claim("second", planned, worker="x", lease_seconds=60) is None


def test_threads_claim_each_key_once(store: Store, make_candidate: MakeCandidate, make_spec: MakeSpec) -> None:
    candidate = make_candidate(0)
    store.add_candidate("first", candidate)
    specs = [make_spec(candidate, seed=seed) for seed in range(20)]
    store.plan("first", specs)
    won: list[EvaluationKey] = []

    def work() -> None:
        for spec in specs:
            if store.claim("first", spec.key, worker="t", lease_seconds=60):
                won.append(spec.key)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(key.seed for key in won) == list(range(20))


# History


def test_measurement_comes_back_equal(store: Store, planned: EvaluationKey) -> None:
    loss = Series(name="loss", steps=(1, 10, 20), values=(3.25, 0.1 + 0.2, 1e-300))
    accuracy = Series(name="accuracy", steps=(), values=())
    whole = Measurement(
        key=planned,
        score=1 / 3,
        metrics={"loss": 0.1, "parameters": 12345678901234},
        series=(loss, accuracy, loss),
        environment={"torch": "2.6", "cpu": "AVX2"},
        seconds=0.25,
        fingerprint="f" * 16,
    )
    store.finish("first", claimed(store, planned), whole)
    found = store.measurement("first", planned)
    assert found == whole
    assert isinstance(found.metrics["parameters"], int)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 0.1 + 0.2, 5e-324, 1.7976931348623157e308])
def test_unusual_numbers_survive(store: Store, planned: EvaluationKey, number: float) -> None:
    odd = Measurement(
        key=planned,
        score=number,
        metrics={"loss": number},
        series=(Series(name="loss", steps=(1, 2), values=(number, 1.0)),),
        environment={},
        seconds=number,
    )
    store.finish("first", claimed(store, planned), odd)
    found, result = store.measurement("first", planned), store.history("first")[0].results[0]
    for value in (found.score, found.metrics["loss"], found.series[0].values[0], found.seconds, result.score):
        assert value is not None
        assert repr(value) == repr(number)  # which finds NaN equal to itself


def test_failure_comes_back_with_what_no_database_can_hold_escaped(store: Store, planned: EvaluationKey) -> None:
    failure = Failure(kind=FailureKind.DIVERGED, reason="loss \0 is \ud800 gone", traceback="Traceback …\n")
    failed = Measurement(key=planned, score=None, metrics={}, environment={}, seconds=1.0, failure=failure)
    store.finish("first", claimed(store, planned), failed)
    (trial,) = store.history("first")
    assert trial.failure == replace(failure, reason="loss \\x00 is \\ud800 gone")
    assert store.query("SELECT state FROM evaluations")[1] == [("failed",)]


def test_history_has_all_candidates_by_index_and_results_as_planned(
    store: Store, make_candidate: MakeCandidate, make_spec: MakeSpec, make_measurement: MakeMeasurement
) -> None:
    second, first, third = (make_candidate(index) for index in (1, 0, 2))
    for candidate in (second, first, third):
        store.add_candidate("first", candidate)
    specs = [make_spec(second, task=GATES), make_spec(second), make_spec(second, rung=1), make_spec(first)]
    store.plan("first", specs)
    for spec in reversed(specs[:3]):
        passed = None if spec.key.task == GATES else 0.5
        store.finish("first", claimed(store, spec.key), make_measurement(spec.key, score=passed))
    claimed(store, specs[3].key)
    trials = store.history("first")
    assert [trial.candidate for trial in trials] == [first, second, third]
    assert [[result.key for result in trial.results] for trial in trials] == [[], [s.key for s in specs[:3]], []]


# Events, calls and notes


def test_last_events_oldest_first(store: Store) -> None:
    before = datetime.now(UTC)
    for number in range(5):
        store.add_event("first", kind="note", text=f"{number}")
    events = store.events("first", last=2)
    assert [(event.kind, event.text) for event in events] == [("note", "3"), ("note", "4")]
    assert before <= events[0].at <= datetime.now(UTC)
    assert len(store.events("first")) == 5


def test_calls_come_back_equal(store: Store) -> None:
    at = datetime(2026, 5, 1, 12, tzinfo=UTC)
    calls = [
        LanguageModelCall(
            at=at,
            key=f"call {n}",
            role=Role.CRITIC,
            prompt="critic/1",
            endpoint="http://host/v1",
            ask=2**31 - 1,
            cost=10**12,
            model="m",
            request='{"a": "\\u0000"}',
            response=None,
            prompt_tokens=3,
            completion_tokens=n,
            seconds=0.0,
        )
        for n in range(2)
    ]
    for call in calls:
        store.reserve_call("first", call)
    assert store.calls("first") == tuple(calls)
    answered = replace(calls[0], response="réponse", cost=5, completion_tokens=9, seconds=0.5)
    store.settle_call("first", answered)
    assert store.calls("first") == (answered, calls[1])


def test_lessons_come_back_equal_with_their_evidence(
    store: Store, make_candidate: MakeCandidate, make_spec: MakeSpec
) -> None:
    store.add_candidate("first", make_candidate(0))
    specs = [make_spec(make_candidate(0), seed=seed) for seed in range(3)]
    store.plan("first", specs)
    at = datetime(2026, 5, 1, tzinfo=UTC)
    told = [
        Lesson(text=f"{text}\ud800", candidate=make_candidate(0).id, evidence=keys, when=at)
        for text, keys in (("decay helps", (specs[0].key, specs[2].key)), ("or not", (specs[1].key,)))
    ]
    for lesson in told:
        store.add_lesson("first", lesson)
    assert store.lessons("first") == tuple(replace(each, text=storable(each.text)) for each in told)
    nowhere = EvaluationKey(candidate=make_candidate(0).id, task="mqar", rung=5, seed=0)
    with pytest.raises(NotFoundError):
        store.add_lesson("first", replace(told[0], text="new", evidence=(specs[0].key, nowhere)))
    assert len(store.lessons("first")) == 2


def test_what_a_model_wrote_of_its_proposal_comes_back(store: Store, make_candidate: MakeCandidate) -> None:
    written = replace(
        make_candidate(0), author="m", predictions=(("mqar", 0.1), ("text", -0.05)), cites=("lesson-1", "Mamba-2")
    )
    store.add_candidate("first", written)
    store.add_candidate("first", written)
    assert store.candidates("first") == (written,)


def test_notes_are_kept_per_candidate(store: Store, make_candidate: MakeCandidate) -> None:
    for number in range(2):
        store.add_candidate("first", make_candidate(number))
    store.add_note("first", make_candidate(0).short, "worth a replicate")
    store.add_note("first", make_candidate(0).id, "twice")
    assert store.notes("first", make_candidate(0).id) == ("worth a replicate", "twice")
    assert store.notes("first", make_candidate(1).id) == ()
    with pytest.raises(NotFoundError):
        store.add_note("first", "zzz", "lost")


# Queries


def test_query_returns_names_and_rows(store: Store, planned: EvaluationKey) -> None:
    sql = "SELECT name, 100 % 7 AS rest FROM campaigns WHERE name LIKE 'f%'"
    assert store.query(sql) == (("name", "rest"), [("first", 2)])
    assert store.query("WITH c AS (SELECT task FROM evaluations) SELECT * FROM c") == (("task",), [("mqar",)])


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM campaigns",
        "UPDATE campaigns SET name = 'x'",
        "INSERT INTO protocols VALUES ('x', '{}')",
        "DROP TABLE notes",
        "CREATE TABLE mine (a INTEGER)",
        "SELECT 1; DELETE FROM campaigns",
        "SELECT 1; COMMIT; DELETE FROM campaigns",
        "COMMIT; DELETE FROM campaigns",
        "PRAGMA query_only = 0",
        "VACUUM INTO '{folder}/copy.db'",
        "ATTACH '{folder}/other.db' AS other",
        "WITH gone AS (DELETE FROM campaigns RETURNING name) SELECT * FROM gone",
        "SELEC 1",
        "SELECT nothing FROM nowhere",
        "",
    ],
)
def test_query_that_is_not_one_select_is_refused(
    store: Store, tmp_path_factory: pytest.TempPathFactory, sql: str
) -> None:
    folder = tmp_path_factory.mktemp("aside")
    with pytest.raises(ConfigError):
        store.query(sql.replace("{folder}", str(folder)))
    assert [campaign.name for campaign in store.campaigns()] == ["first"]
    assert list(folder.iterdir()) == []
    assert store.campaign().state is CampaignState.STOPPED
