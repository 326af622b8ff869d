"""The language-model arm: its roles, what goes back to be mended, what it learns, and that the record says it all."""

import json
from collections.abc import Sequence
from functools import reduce
from random import Random

import pytest

from archloom.agents.knowledge.entries import entries
from archloom.agents.language_model.endpoints import CallFailed, Reply
from archloom.agents.language_model.proposer import LanguageModelProposer, Settings
from archloom.agents.language_model.record import NotRecorded, Record
from archloom.agents.proposer import Proposal, ProposerFailed
from archloom.db.records import LanguageModelCall, Lesson, Origin, Role, Trial
from archloom.search_space.identity import term_id
from archloom.search_space.sampling import Sampler
from archloom.search_space.text import parse
from archloom.search_space.variation import in_budget

from .laboratory import (
    FAR,
    GOOD,
    OTHER,
    PROTOCOL,
    SAMPLER,
    WHEN,
    WRONG,
    Kept,
    Voice,
    architecture_of,
    completion,
    lesson,
    model,
    proposal,
    trial,
    verdict,
)

PLAIN = Settings(goal="win", critic=False, analyst=False, knowledge=False)
TINY = model()


def researcher(*answers: str | Reply | CallFailed) -> Voice:
    return Voice({"researcher": [*answers], "critic": [], "analyst": []})


def arm(
    voice: Voice,
    settings: Settings = PLAIN,
    *,
    record: Record | None = None,
    kept: Kept | None = None,
    learnt: list[Lesson] | None = None,
    lessons: Sequence[Lesson] = (),
    sampler: Sampler = SAMPLER,
) -> LanguageModelProposer:
    kept = kept or Kept()
    record = record or Record({"tiny": voice}, reserve=kept.reserve, settle=kept.settle)  # type: ignore[dict-item]
    return LanguageModelProposer(
        settings,
        record=record,
        models=[TINY],
        sampler=sampler,
        protocol=PROTOCOL,
        about={"mqar": "recall", "text": "language"},
        entries=entries(),
        lessons=lessons,
        keep=(learnt if learnt is not None else []).append,
    )


def test_a_good_answer_is_a_canonical_architecture_in_budget() -> None:
    voice = researcher(proposal(GOOD, hypothesis="positive\x00 features\u202e\x1b[31m\nand\ta sum"))
    (made,) = arm(voice).ask([], 1, Random(0))
    assert made == Proposal(
        term=made.term,
        origin=Origin.LANGUAGE_MODEL,
        operator="write",
        rationale="positive features [31m and a sum",
        author="tiny",
    )
    assert made.term.text == architecture_of(GOOD)
    assert in_budget(made.term, SAMPLER)


def test_edits_change_the_parent_that_they_name() -> None:
    base = trial(GOOD, 0, (0.5, 0.5))
    edits = [{"replace": "value(x)", "by": "silu(value(x))"}]
    voice = researcher(
        proposal(parent=base.candidate.short, edits=edits, predictions=[{"task": "mqar", "change": 0.2}])
    )
    (made,) = arm(voice).ask([base], 1, Random(0))
    assert made.term.text == architecture_of(GOOD.replace("value(x)", "silu(value(x))"))
    assert (made.operator, made.parents) == ("edit", (base.candidate.id,))
    assert made.predictions == (("mqar", 0.2),)


def test_a_parent_may_be_a_known_system_by_name() -> None:
    base = trial(GOOD, 0, (0.5, 0.5), origin=Origin.ZOO, name="linear")
    voice = researcher(proposal(parent="linear", edits=[{"replace": "value(x)", "by": "silu(value(x))"}]))
    (made,) = arm(voice).ask([base], 1, Random(0))
    assert made.parents == (base.candidate.id,)


def test_a_parent_that_is_not_there_or_not_one_goes_back() -> None:
    edits = [{"replace": "value(x)", "by": "silu(value(x))"}]
    voice = Voice({"researcher": [proposal(parent="0000", edits=edits)], "repair": [proposal(GOOD)]})
    (made,) = arm(voice).ask([trial(OTHER, 0, (0.5, 0.5))], 1, Random(0))
    assert made.operator == "repair"
    assert 'no one candidate "0000"' in voice.told(1)


def test_a_wrong_term_is_repaired_after_its_error() -> None:
    voice = Voice({"researcher": [proposal(WRONG)], "repair": [proposal(GOOD)]})
    kept = Kept()
    (made,) = arm(voice, kept=kept).ask([], 1, Random(0))
    assert (made.term.text, made.operator) == (architecture_of(GOOD), "repair")
    assert [call.role for call in kept.calls.values()] == [Role.RESEARCHER, Role.REPAIR]
    *_, said, told = voice.heard[1][1]["messages"]
    assert (said["role"], json.loads(said["content"])["term"]) == ("assistant", WRONG)
    assert "argument 1 of `apply` must be kernel" in told["content"]
    assert "masked" in told["content"]  # what would fit


def attention(value: str, *, lets: str = "") -> str:
    return f"mix({lets}apply(masked(dot(project(x), project(x)), visible), {value}), heads=2)"


def doubled(times: int) -> str:
    """A short text whose `let`s, written in place, make 2 ** times projections."""
    lets = "".join(f"let v{i + 1} = add(v{i}, v{i}) in " for i in range(times))
    return attention(f"v{times}", lets=f"let v0 = value(x) in {lets}")


def alike(count: int) -> str:
    """`let`s that only their order tells apart."""
    lets = "".join(f"let v{i} = value(x) in " for i in range(count))
    names = [f"v{i}" for i in range(count)] * 2
    return attention(reduce(lambda sum_, name: f"add({sum_}, {name})", names), lets=lets)


def balanced(leaves: int) -> str:
    """A sum nested nine deep that becomes, with its operands in order, one nested as deep as it has leaves."""
    return "value(x)" if leaves == 1 else f"add({balanced(leaves // 2)}, {balanced(leaves // 2)})"


@pytest.mark.parametrize(
    ("term", "told"),
    [
        ("(" * 5000, "expected an operation"),
        ("__import__('os').system('true')", "unexpected character"),
        (GOOD + "\n#" + "a" * 10_000, "at most 10000"),
        ("project(x)", "the term is a feature"),
        (f"together({GOOD}, together({GOOD}, together({GOOD}, together({GOOD}, {GOOD}))))", "too large"),
        (doubled(40), "written out"),
        (doubled(9), "more than 8 `let`s"),
        (alike(11), "more than 8 `let`s"),
        (attention(balanced(512)), "too large"),
    ],
)
def test_a_term_that_cannot_be_used_is_refused_with_the_reason(term: str, told: str) -> None:
    voice = Voice({"researcher": [proposal(term)], "repair": [proposal(GOOD)]})
    (made,) = arm(voice).ask([], 1, Random(0))
    assert made.term.text == architecture_of(GOOD)
    assert told in voice.told(1)
    assert len(voice.heard[1][1]["messages"][-2]["content"]) <= 12_000


def test_repairs_end() -> None:
    voice, kept = Voice({"researcher": [proposal(WRONG)], "repair": [proposal(WRONG)] * 4}), Kept()
    with pytest.raises(ProposerFailed, match="no valid term in 3 answers; the last: line 1"):
        arm(voice, Settings(goal="", repairs=2, critic=False), kept=kept).ask([], 1, Random(0))
    assert len(kept.calls) == len(voice.heard) == 3


def test_what_was_tried_goes_back_before_anything_is_spent_on_it() -> None:
    voice = Voice({"researcher": [proposal(GOOD)], "repair": [proposal(OTHER)], "critic": []})
    tried = trial(GOOD, 0, (0.5, 0.5), author=None)
    (made,) = arm(voice, Settings(goal="", novelty=1, analyst=False)).ask([tried], 1, Random(0))
    assert made.term.text == architecture_of(OTHER)
    assert "tried already" in voice.told(1)
    assert "critic" not in voice.roles


# -- the critic


CRITICAL = Settings(goal="win", analyst=False, knowledge=False)


def test_only_close_relatives_are_shown_to_the_critic() -> None:
    tried = trial(OTHER, 0, (0.5, 0.25), author=None)
    far = Voice({"researcher": [proposal(FAR)], "critic": []})
    arm(far, CRITICAL).ask([tried], 1, Random(0))
    near = Voice({"researcher": [proposal(GOOD)], "critic": [verdict(True)]})
    arm(near, CRITICAL).ask([tried], 1, Random(0))
    assert (far.roles, near.roles) == (["researcher"], ["researcher", "critic"])
    assert tried.candidate.short in near.told(1)
    assert "0.500" in near.told(1)
    assert "replaced relu by elu1" in near.told(1)


def test_the_critic_sends_a_proposal_back_once() -> None:
    voice = Voice(
        {
            "researcher": [proposal(GOOD)],
            "repair": [proposal(OTHER.replace("relu", "exp"))],
            "critic": [verdict(False, "the same in other words")],
        }
    )
    (made,) = arm(voice, CRITICAL).ask([trial(OTHER, 0, (0.5, 0.5), author=None)], 1, Random(0))
    assert voice.roles == ["researcher", "critic", "repair"]
    assert "the same in other words" in voice.told(2)
    assert made.operator == "repair"


@pytest.mark.parametrize("said", ["no idea", CallFailed("busy", status=503), verdict(True)])
def test_a_critic_without_an_opinion_stops_nothing(said: str | CallFailed) -> None:
    voice = Voice({"researcher": [proposal(GOOD)], "critic": [said]})
    (made,) = arm(voice, CRITICAL).ask([trial(OTHER, 0, (0.5, 0.5), author=None)], 1, Random(0))
    assert made.term.text == architecture_of(GOOD)


# -- the analyst and the lessons


LEARNING = Settings(goal="win", critic=False)


def test_every_candidate_of_the_arm_is_learnt_from_once() -> None:
    history = [
        trial(GOOD, 0, (0.5, 0.5), origin=Origin.ZOO, name="linear"),
        trial(OTHER, 1, (0.75, 0.5), predictions=(("mqar", 0.5),), rationale="a sharper feature"),
        trial(FAR, 2, None),
    ]
    said = [lesson("relu recalls more than elu (+0.25)"), lesson("windows diverge"), "nothing"]
    voice = Voice({"analyst": said, "researcher": [proposal(FAR.replace("16", "32"))] * 2})
    learnt: list[Lesson] = []
    first = arm(voice, LEARNING, learnt=learnt)
    first.ask(history, 1, Random(0))
    assert [(each.text, each.candidate) for each in learnt] == [
        ("relu recalls more than elu (+0.25)", history[1].candidate.id),
        ("windows diverge", history[2].candidate.id),
    ]
    assert learnt[0].evidence == tuple(result.key for result in history[1].results)
    assert "predicted change +0.500" in voice.told(0)
    assert "change +0.250" in voice.told(0)
    assert "> a sharper feature" in voice.told(0)
    assert "the loss is NaN" in voice.told(1)
    assert learnt[0].name in voice.told(2)
    first.ask(history, 1, Random(1))
    assert voice.roles == ["analyst", "analyst", "researcher", "researcher"]


def test_a_lesson_that_is_cited_is_judged_by_what_cites_it() -> None:
    key = trial(GOOD, 0, (0.0, 0.0)).results[0].key
    good, bad = (
        Lesson(text=text, candidate=key.candidate, evidence=(key,), when=WHEN)
        for text in ("mqar recall wants positive features", "mqar recall wants windows")
    )
    history = [
        trial(GOOD, 0, (0.9, 0.9), cites=(good.name,)),
        trial(OTHER, 1, (0.8, 0.8), cites=(good.name,)),
        *(trial(FAR.replace("16", str(width)), 2 + i, None, cites=(bad.name,)) for i, width in enumerate((4, 8, 32))),
    ]
    voice = Voice(
        {"researcher": [proposal(GOOD.replace("heads=2", "heads=1"), cites=[good.name, bad.name, "lesson-none"])]}
    )
    settings = Settings(goal="mqar recall", critic=False, analyst=False)
    (made,) = arm(voice, settings, lessons=[good, bad]).ask(history, 1, Random(0))
    assert good.name in voice.told(0)
    assert bad.name not in voice.told(0)  # three proposals that rest on it failed: it has faded
    assert made.cites == (good.name,)  # what was not shown cannot be cited


def test_an_analyst_that_fails_costs_a_lesson_and_no_proposal() -> None:
    voice = Voice({"analyst": [CallFailed("busy", status=503)], "researcher": [proposal(GOOD)] * 2})
    learnt: list[Lesson] = []
    first = arm(voice, LEARNING, learnt=learnt)
    for seed in range(2):
        first.ask([trial(OTHER, 0, (0.5, 0.5))], 1, Random(seed))
    assert learnt == []
    assert voice.roles == ["analyst", "researcher", "researcher"]


def test_roles_that_are_left_out_are_not_asked_and_knowledge_is_not_shown() -> None:
    history = [trial(OTHER, 0, (0.5, 0.5))]
    bare, full = researcher(proposal(GOOD)), researcher(proposal(GOOD))
    arm(bare, Settings(goal="delta rule", repairs=0, critic=False, analyst=False, knowledge=False)).ask(
        history, 1, Random(0)
    )
    arm(full, Settings(goal="delta rule", repairs=0, critic=False, analyst=False)).ask(history, 1, Random(0))
    assert (bare.roles, full.roles) == (["researcher"], ["researcher"])
    assert "(operations: " not in bare.told(0).split("Knowledge:")[1]
    assert "(operations: " in full.told(0).split("Knowledge:")[1]


# -- models that fail, and the record


def test_another_model_is_asked_where_one_does_not_answer() -> None:
    broken, sound = researcher(CallFailed("gone", status=404)), researcher(proposal(GOOD), proposal(OTHER))
    models = [model("dear"), model("cheap")]
    record = Record({"dear": broken, "cheap": sound})  # type: ignore[dict-item]
    made = []
    for seed in range(2):
        whole = LanguageModelProposer(
            PLAIN, record=record, models=models, sampler=SAMPLER, protocol=PROTOCOL, about={}, entries=()
        )
        made += whole.ask([], 1, Random(seed))
    assert [each.author for each in made] == ["cheap", "cheap"]
    assert len(broken.heard) <= 1


def test_a_model_that_no_call_reaches_fails_the_arm() -> None:
    voice, kept = researcher(CallFailed("refused", status=401)), Kept()
    one = arm(voice, kept=kept)
    for seed in range(3):
        with pytest.raises(ProposerFailed, match="refused"):
            one.ask([], 1, Random(seed))
    assert len(kept.calls) == 1


def test_the_record_alone_gives_the_same_proposals_and_lessons() -> None:
    history = [trial(OTHER, 0, (0.5, 0.25)), trial(FAR, 1, None)]
    voice = Voice(
        {
            "analyst": [lesson("one"), lesson("two")],
            "researcher": [proposal(WRONG), proposal(GOOD, cites=["DeltaNet"])],
            "repair": [proposal(GOOD.replace("heads=2", "heads=4"))],
            "critic": [verdict(True), verdict(True)],
        }
    )
    settings, kept, learnt = Settings(goal="delta rule"), Kept(), []
    live = arm(voice, settings, kept=kept, learnt=learnt)
    first = [live.ask(history[:1], 1, Random(0)), live.ask(history, 1, Random(1))]
    again: list[Lesson] = []
    offline = arm(voice, settings, record=Record({}, known=kept.calls.values()), learnt=again)
    assert [offline.ask(history[:1], 1, Random(0)), offline.ask(history, 1, Random(1))] == first
    assert again == learnt
    assert len(learnt) == 2
    with pytest.raises(NotRecorded):  # another seed is another request
        offline.ask(history, 1, Random(2))


@pytest.mark.parametrize("stopped", range(5))
def test_a_process_killed_between_a_request_and_its_answer_pays_nothing_twice(stopped: int) -> None:
    """Killed at each call in turn: what was answered is taken from the record, only what was lost is asked again."""

    class Killed(BaseException):
        pass

    class Mortal(Voice):
        def complete(self, body, *, again=lambda: True):  # type: ignore[no-untyped-def]
            if len(self.heard) == stopped:
                self.heard.append(("killed", body))
                raise Killed
            return super().complete(body, again=again)

    answers = {
        "analyst": [lesson("one"), lesson("two")],
        "researcher": [proposal(WRONG)],
        "repair": [proposal(GOOD)],
        "critic": [verdict(True)],
    }
    history = [trial(OTHER, 0, (0.5, 0.25)), trial(FAR, 1, None)]
    kept, learnt = Kept(), []
    settings = Settings(goal="win")
    voice = Mortal({role: list(texts) for role, texts in answers.items()})
    with pytest.raises(Killed):
        arm(voice, settings, kept=kept, learnt=learnt).ask(history, 1, Random(0))
    left = Voice(voice.says)
    record = Record(
        {"tiny": left},  # type: ignore[dict-item]
        known=tuple(kept.calls.values()),
        reserve=kept.reserve,
        settle=kept.settle,
    )
    (made,) = arm(left, settings, record=record, learnt=learnt, lessons=tuple(learnt)).ask(history, 1, Random(0))
    assert made.term.text == architecture_of(GOOD)
    assert len(left.heard) == 5 - stopped  # five answers in all, each given once
    assert [call.response is None for call in kept.calls.values()].count(True) == 1
    assert [each.text for each in learnt] == ["one", "two"]


@pytest.mark.parametrize("seed", range(6))
def test_a_proposal_that_goes_on_keeps_the_model_it_began_with(seed: int) -> None:
    """What was spent before the kill would let another model be drawn: the record says which it was."""

    class Killed(BaseException):
        pass

    class Mortal(Kept):
        """Its process is killed when the first answer is stored."""

        def settle(self, call: LanguageModelCall) -> None:
            super().settle(call)
            if len(self.calls) == 1:
                raise Killed

    costly = Reply(text=completion(lesson("one"), usage=(10**7, 10**7)), seconds=0.0)
    history, kept = [trial(OTHER, 0, (0.5, 0.25))], Mortal()
    voice = Voice({"analyst": [costly], "researcher": [proposal(GOOD)]})
    models = [model("tiny"), model("other")]

    def resumed(voice: Voice) -> LanguageModelProposer:
        record = Record(
            {"tiny": voice, "other": voice},  # type: ignore[dict-item]
            known=tuple(kept.calls.values()),
            reserve=kept.reserve,
            settle=kept.settle,
        )
        return LanguageModelProposer(
            LEARNING, record=record, models=models, sampler=SAMPLER, protocol=PROTOCOL, about={}, entries=()
        )

    with pytest.raises(Killed):
        resumed(voice).ask(history, 1, Random(seed))
    left = Voice(voice.says)
    (made,) = resumed(left).ask(history, 1, Random(seed))
    assert left.roles == ["researcher"]
    assert {call.model for call in kept.calls.values()} == {made.author}


def test_several_proposals_are_separate_requests() -> None:
    voice = researcher(proposal(GOOD), proposal(OTHER))
    assert len(arm(voice).ask([], 2, Random(0))) == 2
    assert voice.heard[0][1]["seed"] != voice.heard[1][1]["seed"]


# -- hostile answers


def spoiled(rng: Random) -> str:
    """A good answer that went wrong somewhere."""
    whole = json.loads(proposal(rng.choice((GOOD, OTHER, FAR, WRONG)), predictions=[{"task": "mqar", "change": 0.1}]))
    for _ in range(rng.randrange(3)):
        field = rng.choice(list(whole))
        whole[field] = rng.choice(
            (None, 3, [], {}, "x" * 50_000, "mix(", [1], float("nan"), True, "\ud800", [[]] * 100)
        )
    text = json.dumps(whole)
    for _ in range(rng.randrange(4)):
        cut, end = sorted(rng.choices(range(len(text) + 1), k=2))
        part = rng.choice(("", text[cut:end] * 2, "{", "}", '"', "\\", "```", "<think>", "\x00", "let v = v in v"))
        text = text[:cut] + part + (text[end:] if rng.random() < 0.5 else text[cut:])
    return text[:200_000]


def test_two_thousand_spoiled_answers_leave_only_typed_terms_and_an_exact_account() -> None:
    rng, kept = Random(20), Kept()

    class Babbling(Voice):
        def complete(self, body, *, again=lambda: True):  # type: ignore[no-untyped-def]
            counted = rng.choice(((rng.randrange(9000), rng.randrange(9000)), None))
            text = completion(spoiled(rng), usage=counted)
            if rng.random() < 0.1:
                text = text[: rng.randrange(len(text))]
            if rng.random() < 0.1:
                raise CallFailed("half an answer", lost=rng.randrange(2))
            answers.append(text)
            return Reply(text=text, seconds=0.0)

    answers: list[str] = []
    one = arm(Babbling({}), Settings(goal="win", repairs=3), kept=kept)
    history: list[Trial] = []
    made = failed = 0
    while len(answers) < 2_000:
        try:
            (found,) = one.ask(history[-40:], 1, Random(f"{made} {failed}"))
        except ProposerFailed:
            failed += 1
            continue
        made += 1
        assert parse(found.term.text).text == found.term.text
        assert in_budget(found.term, SAMPLER)
        assert term_id(found.term) not in {each.candidate.id for each in history[-40:]}
    tokens = sum(call.prompt_tokens + call.completion_tokens for call in kept.calls.values())
    assert one.record.spent == (tokens, sum(call.cost for call in kept.calls.values()))
    assert all(call.response is not None for call in kept.calls.values())
    assert made > 50
    assert failed > 50
