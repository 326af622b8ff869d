"""What is read of a model's text: each tolerance, each bound, and that no text breaks the reader or keeps it busy."""

import json
import math
from collections.abc import Callable
from random import Random
from time import process_time
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from archloom.agents.language_model.answers import (
    MAX_CITES,
    MAX_EDITS,
    MAX_HYPOTHESIS,
    MAX_NAME,
    MAX_PREDICTIONS,
    MAX_REASON,
    MAX_TERM,
    SCHEMAS,
    Answer,
    Edit,
    Verdict,
    analyst,
    content,
    critic,
    found,
    researcher,
    usage,
)
from archloom.agents.proposer import ProposerFailed
from archloom.db.records import Role
from archloom.search_space import zoo
from archloom.search_space.terms import TermError
from archloom.search_space.text import parse

TASKS = ("recall", "parity", "copy")
TERM = "mix(apply(masked(dot(elu1(project(x)), elu1(project(x))), visible), value(x)), heads=2)"
KEYS = ("hypothesis", "term", "parent", "edits", "predictions", "cites")
GOOD = {
    "hypothesis": "two heads recall more",
    "term": TERM,
    "parent": "",
    "edits": [],
    "predictions": [{"task": "recall", "change": 0.1}, {"task": "copy", "change": -0.02}],
    "cites": ["gated_delta", "lesson-7"],
}
EDITED = GOOD | {"term": "", "parent": "mamba2", "edits": [{"replace": "heads=2", "by": "heads=4"}]}


def read(**changes: object) -> Answer:
    return researcher(json.dumps(GOOD | changes), tasks=TASKS)


def completion(message: object, **rest: object) -> str:
    return json.dumps({"choices": [{"index": 0, "message": message, **rest}]})


# -- what a server sends ----------------------------------------------------------------------------------------------


def test_the_content_of_a_completion_is_text_or_the_text_of_its_parts() -> None:
    assert content(completion({"content": "as it is\n"})) == "as it is\n"
    parts = [{"type": "text", "text": "one, "}, {"type": "image", "text": "no"}, 5, {"type": "text", "text": "two"}]
    assert content(completion({"content": parts})) == "one, two"
    assert content(completion({"content": "cut off in the mid"}, finish_reason="length")) == "cut off in the mid"
    assert content(completion({"content": ""}, finish_reason="stop")) == ""
    assert content(completion({"content": "a\ud800b"})) == "a?b"


@pytest.mark.parametrize(
    ("response", "told"),
    [
        (completion({"content": None}, finish_reason="length"), "raise `max_tokens`"),
        (completion({"content": "  \n"}, finish_reason="length"), "raise `max_tokens`"),
        (completion({"content": []}, finish_reason="length"), "raise `max_tokens`"),
        (completion({}, finish_reason="length"), "raise `max_tokens`"),
        (completion({"content": None, "refusal": "I\nwill not"}), "the model declined: I will not"),
        (completion({"content": "", "refusal": "no"}), "the model declined: no"),
        (json.dumps({"error": {"message": "no\x1b[31m such model"}}), r"^no \[31m such model$"),
        (json.dumps({"error": "overloaded"}), "^overloaded$"),
        (json.dumps({"choices": []}), "no chat completion"),
        (completion({"content": 5}), "no chat completion"),
        ("<html>", "no chat completion: '<html>'"),
        ("", "no chat completion"),
        ("[" * 1_000_000, "no chat completion"),
        ("9" * 1_000_000, "no chat completion"),
    ],
)
def test_an_answer_without_content_says_what_is_wrong(response: str, told: str) -> None:
    with pytest.raises(ProposerFailed, match=told) as failure:
        content(response)
    assert str(failure.value).isprintable()
    assert len(str(failure.value)) < 700


def test_usage_is_what_the_server_counted_and_none_where_it_did_not() -> None:
    def of(prompt: object, written: object) -> tuple[int, int] | None:
        return usage(json.dumps({"usage": {"prompt_tokens": prompt, "completion_tokens": written}}))

    assert of(11, 0) == (11, 0)
    assert of(2**31 - 1, 7) == (2**31 - 1, 7)
    for wrong in (True, -1, 1.0, "7", None, 2**31, 10**400, [7], math.nan):
        assert of(wrong, 7) is None
        assert of(7, wrong) is None
    assert usage("{}") is None
    assert usage('{"usage": null}') is None
    assert usage("[" * 100_000) is None


# -- the object in a text ---------------------------------------------------------------------------------------------

OBJECT = json.dumps(GOOD, indent=1)


@pytest.mark.parametrize(
    "text",
    [
        OBJECT,
        f"  \n{OBJECT}\n",
        f"\ufeff{OBJECT}",
        f"<think>maybe {json.dumps(EDITED)}?</think>\n{OBJECT}",
        f"<think>{{</think>Here it is: {OBJECT} Good luck!",
        f"```json\n{OBJECT}\n```",
        f"Sure!\n```\n{OBJECT}\n```\nIt uses `{{x}}`.",
        f"```json {OBJECT}```",
        f"```json\n{OBJECT}",  # never closed
        f"first {json.dumps(EDITED)}, no: {OBJECT}",
        f'{OBJECT} or only {{"term": "x", "cites": []}}',
        f'```json\n{{"term": "x"}}\n```\nrather: {OBJECT}',
        f"the set {{a, b}} and {{}} and \\frac{{1}}{{2}} {OBJECT} }}}}",
        f'{{"answer": {{"proposal": {OBJECT}}}}}',
        f"[{OBJECT}]",
        f'{{" a quote in prose, then {OBJECT}',
        '{"' * 3000 + OBJECT,
        f"```json\n{OBJECT}\n```\nin the notation " + '{"' * 3000,
        ("the state {" + "s" * 90 + '} and {"a", "b"}') * 400 + OBJECT,
        ('{"a": 1} or {"b": [1, 2]} and so on ' + "s" * 60) * 200 + OBJECT,
        f"<think>{'long ' * 200_000}{json.dumps(EDITED)}</think>{OBJECT}",
        f"<think>{json.dumps(EDITED)}{'long ' * 200_000}</think>{OBJECT}",
    ],
)
def test_the_object_is_found_wherever_it_stands(text: str) -> None:
    assert found(text, keys=KEYS) == GOOD


def test_a_whole_text_that_is_an_object_holds_no_other() -> None:
    outer = {"hypothesis": f"better than ```json\n{OBJECT}\n``` and than <think> {OBJECT} </think>"}
    assert found(json.dumps(outer), keys=KEYS) == outer


def test_thoughts_are_no_answer_unless_they_never_end() -> None:
    assert found(f"<think>{OBJECT}</think> I do not know", keys=KEYS) is None
    assert found(f"<think>{'long ' * 200_000}{OBJECT}</think> I do not know", keys=KEYS) is None
    assert found(f"<think>so {OBJECT}", keys=KEYS) == GOOD


def test_a_text_without_such_an_object_has_none() -> None:
    for text in ("", "no", "{}", "[]", "null", '{"other": 1}', "{'term': 'x'}", '{"term": "x",}', '{"term": None}'):
        assert found(text, keys=KEYS) is None


def test_line_breaks_inside_a_text_are_mended() -> None:
    assert found('{"term": "mix(\n\tx)"}', keys=KEYS) == {"term": "mix(\n\tx)"}


def held(text: str) -> bool:
    """Whether a text looks as if it had an object with one of the keys: an oracle that errs towards yes."""
    return any(f'"{key}"' in text for key in KEYS)


texts = st.text(max_size=60)
answers = st.fixed_dictionaries(
    {"term": texts, "hypothesis": texts},
    optional={"cites": st.lists(texts, max_size=3), "edits": st.lists(st.fixed_dictionaries({"replace": texts}))},
)
prose = st.lists(
    st.one_of(texts, st.sampled_from(["{", "}", '{"', '"', "\\", "[", "{}", '{"a": 1}', "\n", "``", "mix(x)"])),
    max_size=6,
).map("".join)


@given(answer=answers, before=prose, after=prose, fence=st.sampled_from(["", "```", "```json"]), ascii_=st.booleans())
@settings(max_examples=400, deadline=None)
def test_an_answer_inside_any_prose_is_found_unchanged(
    answer: dict[str, Any], before: str, after: str, fence: str, ascii_: bool
) -> None:
    # A quotation mark before it may swallow the answer's first brace, an opened thought the whole of it.
    assume(not held(before) and not held(after) and "<think>" not in before)
    written = json.dumps(answer, ensure_ascii=ascii_)
    closing = "\n```\n" if fence else ""
    assert found(f"{before}\n{fence}\n{written}{closing}{after}", keys=KEYS) == answer


# -- a researcher's answer --------------------------------------------------------------------------------------------


def test_a_researchers_answer_is_acceptedwhole() -> None:
    assert read() == Answer(
        hypothesis="two heads recall more",
        term=TERM,
        parent="",
        edits=(),
        predictions=(("recall", 0.1), ("copy", -0.02)),
        cites=("gated_delta", "lesson-7"),
    )
    answer = researcher(json.dumps(EDITED), tasks=TASKS)
    assert (answer.term, answer.parent) == ("", "mamba2")
    assert answer.edits == (Edit(replace="heads=2", by="heads=4"),)


def test_what_is_not_given_is_empty() -> None:
    bare = Answer(hypothesis="", term="x", parent="", edits=(), predictions=(), cites=())
    assert researcher('{"term": "x", "mood": "good"}', tasks=TASKS) == bare
    nothing = dict.fromkeys(KEYS) | {"term": " x\n"}
    assert researcher(json.dumps(nothing), tasks=TASKS) == bare


def test_a_whole_term_makes_edits_needless() -> None:
    answer = read(parent="mamba2", edits=EDITED["edits"])
    assert (answer.term, answer.parent, answer.edits) == (TERM, "mamba2", ())


@pytest.mark.parametrize(
    "text",
    [
        TERM,
        f"\n {TERM} \n",
        f"```\n{TERM}\n```",
        f"I would write\n```text\n{TERM}\n```\nbecause it recalls.",
        f"```{TERM}```",
        f"```\nmlp(x)\n```\nbetter:\n```\n{TERM}\n```",
        f"<think>mlp(x)</think>{TERM}",
        f"<think>{'long ' * 200_000}```mlp(x)```</think>{TERM}",
        f"the state {{S}} grows: ```\n{TERM}\n```",
    ],
)
def test_a_bare_term_is_an_answer(text: str) -> None:
    answer = researcher(text, tasks=TASKS)
    assert parse(answer.term) == parse(TERM)
    assert answer == Answer(hypothesis="", term=answer.term, parent="", edits=(), predictions=(), cites=())


def test_every_standard_system_is_a_bare_term_as_the_zoo_writes_it() -> None:
    for name in zoo.STANDARD:
        entry = zoo.entry(name)
        assert parse(researcher(entry.text, tasks=()).term) == parse(entry.text), name


@pytest.mark.parametrize("text", ["", "mix it well", "mix(x) is best", "print(1)", "```python\nprint(1)\n```", "gru"])
def test_other_text_is_no_bare_term(text: str) -> None:
    with pytest.raises(TermError, match="must be one JSON object"):
        researcher(text, tasks=TASKS)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("no", 'one JSON object with "hypothesis", "term", .* it holds no object'),
        ('{"term": "x",}', 'no JSON: .* near `.*x",}`'),
        ('{"term": None}', "no JSON: Expecting value near `.*None}`"),
        ("{'term': 'x'}", "no JSON: Expecting property name"),
        ('{"term": "x', "no JSON: Unterminated string"),
        ('{"other": 1}', "has none of these"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"term": ' + "9" * 5000 + "}", "too many digits"),
    ],
)
def test_an_answer_that_is_no_object_is_told_why(text: str, told: str) -> None:
    with pytest.raises(TermError, match=told) as failure:
        researcher(text, tasks=TASKS)
    assert str(failure.value).isprintable()
    assert len(str(failure.value)) < 400


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"term": ""}, 'neither a "term" nor "edits"'),
        ({"term": "", "edits": EDITED["edits"]}, 'no "parent"; name the candidate'),
        ({"term": 5}, '"term" is a number; it must be a text'),
        ({"hypothesis": ["a"]}, '"hypothesis" is a list; it must be a text'),
        ({"parent": {"id": "x"}}, '"parent" is an object; it must be a text'),
        ({"edits": "heads=2"}, '"edits" is a text; it must be a list'),
        ({"edits": [{"replace": "x"}]}, r'"edits\[0\]\.by" is missing; it must be a text'),
        ({"edits": [*EDITED["edits"], "x"]}, r'"edits\[1\]" is a text; it must be an object with "replace" and "by"'),
        ({"predictions": {"recall": 0.1}}, '"predictions" is an object; it must be a list'),
        ({"predictions": [{"task": "recall", "change": "0.1"}]}, r'"predictions\[0\]\.change" is a text; .* number'),
        ({"predictions": [{"task": "recall", "change": True}]}, "is true or false; it must be a finite number"),
        ({"predictions": [{"task": "recall", "change": math.nan}]}, "is no finite number"),
        ({"predictions": [{"task": "recall", "change": -math.inf}]}, "is no finite number"),
        ({"cites": [7]}, r'"cites\[0\]" is a number; it must be a text'),
        ({"term": "x" * (MAX_TERM + 1)}, "10001 characters; at most 10000"),
        ({"edits": [{"replace": "x" * (MAX_TERM + 1), "by": ""}]}, r'"edits\[0\]\.replace" has 10001 characters'),
        ({"edits": EDITED["edits"] * (MAX_EDITS + 1)}, '"edits" has 17 entries; at most 16'),
    ],
)
def test_an_answer_of_another_shape_is_told_what_to_mend(changes: dict[str, object], told: str) -> None:
    with pytest.raises(TermError, match=told):
        read(**changes)


def test_what_is_kept_is_plain_and_no_longer_than_allowed() -> None:
    answer = read(hypothesis="a\n\x1b[31mb\u202ec\ud800 " + "d" * 3000, parent="p" * 100, term="x" * MAX_TERM)
    assert answer.hypothesis.startswith("a [31mb c ddd")
    assert len(answer.hypothesis) == MAX_HYPOTHESIS
    assert len(answer.parent) == MAX_NAME
    assert len(answer.term) == MAX_TERM
    edits = [{"replace": f"{n:010000}", "by": "y" * MAX_TERM} for n in range(MAX_EDITS)]
    assert len(read(term="", parent="p", edits=edits).edits) == MAX_EDITS


def test_predictions_are_of_known_tasks_once_and_within_a_score() -> None:
    told = [("recall", 0.5), ("juggling", 0.5), ("parity", 7), ("copy", -(10**400)), ("recall", 1)]
    answer = read(predictions=[{"task": task, "change": change} for task, change in told])
    assert answer.predictions == (("recall", 1.0), ("parity", 1.0), ("copy", -1.0))
    tasks = [f"task{n}" for n in range(50)]
    many = json.dumps(GOOD | {"predictions": [{"task": task, "change": 0} for task in tasks]})
    kept = researcher(many, tasks=tasks).predictions
    assert kept == tuple((task, 0.0) for task in tasks[:MAX_PREDICTIONS])


def test_cites_are_few_names_each_once() -> None:
    assert read(cites=["a", "b", "a", "", "\n", "n" * 64, "n" * 65, "n" * 100]).cites == ("a", "b", "n" * 64)
    assert read(cites=[str(n) for n in range(40)]).cites == tuple(str(n) for n in range(MAX_CITES))


# -- the critic and the analyst ---------------------------------------------------------------------------------------


def test_a_verdict_is_a_truth_with_a_reason() -> None:
    assert critic('{"novel": false, "reason": "as\\nMamba-2"}') == Verdict(novel=False, reason="as Mamba-2")
    assert critic('well, {"novel": true}') == Verdict(novel=True, reason="")
    assert len(critic(json.dumps({"novel": True, "reason": "r" * 2000})).reason) == MAX_REASON
    for text, told in (
        ('{"novel": "yes"}', '"novel" is a text; it must be true or false'),
        ('{"novel": 1}', '"novel" is a number; it must be true or false'),
        ('{"reason": "new"}', '"novel" is missing'),
        ("yes", 'one JSON object with "novel", "reason"'),
        (TERM, 'one JSON object with "novel", "reason"'),
    ):
        with pytest.raises(TermError, match=told):
            critic(text)


def test_a_lesson_is_one_plain_line() -> None:
    assert analyst('```json\n{"lesson": "decay\\n helps\\u0007"}\n```') == "decay helps"
    assert len(analyst(json.dumps({"lesson": "l" * 2000}))) == MAX_REASON
    for text, told in (
        ('{"lesson": " \\n"}', "is empty"),
        ('{"lesson": ["a"]}', "must be a text"),
        ("decay helps", 'with "lesson"'),
    ):
        with pytest.raises(TermError, match=told):
            analyst(text)


def test_the_schemas_are_strict_and_of_what_is_read() -> None:
    def check(schema: Any, value: object) -> None:
        """A small validator: every property required, none beside them, all the way down."""
        match schema["type"]:
            case "object":
                assert schema["additionalProperties"] is False
                assert isinstance(value, dict)
                assert list(schema["properties"]) == schema["required"] == list(value)
                for name, part in schema["properties"].items():
                    check(part, value[name])
            case "array":
                assert isinstance(value, list)
                assert value
                for each in value:
                    check(schema["items"], each)
            case other:
                assert type(value) is {"string": str, "number": float, "boolean": bool}[other]

    check(SCHEMAS[Role.RESEARCHER], GOOD | {"edits": EDITED["edits"]})
    check(SCHEMAS[Role.REPAIR], GOOD | {"edits": EDITED["edits"]})
    check(SCHEMAS[Role.CRITIC], {"novel": True, "reason": ""})
    check(SCHEMAS[Role.ANALYST], {"lesson": ""})
    json.dumps(list(SCHEMAS.values()))


# -- hostile text -----------------------------------------------------------------------------------------------------


def obeys(answer: Answer) -> bool:
    lines = (answer.hypothesis, answer.parent, *answer.cites)
    return (
        bool(answer.term) != bool(answer.edits)
        and not (answer.edits and not answer.parent)
        and all(line.isprintable() for line in lines)
        and len(answer.hypothesis) <= MAX_HYPOTHESIS
        and len(answer.parent) <= MAX_NAME
        and len(answer.term) <= MAX_TERM
        and len(answer.edits) <= MAX_EDITS
        and all(len(edit.replace) <= MAX_TERM and len(edit.by) <= MAX_TERM for edit in answer.edits)
        and len(answer.predictions) <= MAX_PREDICTIONS
        and all(task in TASKS and -1.0 <= change <= 1.0 for task, change in answer.predictions)
        and len(answer.cites) <= MAX_CITES
        and all(0 < len(name) <= MAX_NAME for name in answer.cites)
    )


WRONG_VALUES = (
    None,
    True,
    0,
    -1e308,
    math.nan,
    10**30,
    "",
    "x" * 20_000,
    "\ud800\x00",
    [],
    [[]],
    {},
    [None] * 100,
    [{}],
)


def flipped(text: str, rng: Random) -> str:
    data = bytearray(text.encode("utf-8", "surrogatepass"))
    for _ in range(rng.randint(1, 20)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return data.decode("utf-8", "surrogateescape")


def truncated(text: str, rng: Random) -> str:
    start, end = sorted(rng.randrange(len(text)) for _ in range(2))
    return text[start:] if rng.random() < 0.3 else text[:end]


def nested(text: str, rng: Random) -> str:
    times = rng.choice((1, 5, 900, 3000))
    opening, closing = rng.choice((("[", "]"), ('{"term":', "}"), ('{"a":', "}"), ("```\n", "\n```"), ("<think>", "")))
    return opening * times + text + closing * rng.choice((times, 0))


def repeated(text: str, rng: Random) -> str:
    start, end = sorted(rng.randrange(len(text)) for _ in range(2))
    return text[:end] + text[start:end] * rng.choice((2, 50, 300)) + text[end:]


def noisy(text: str, rng: Random) -> str:
    places = sorted(rng.randrange(len(text)) for _ in range(8))
    noise = '\u0000\u202e\ud800\udfff\U0001f600\u2028\u00a0\ufeff`{}[]"\\,:'
    for at in reversed(places):
        text = text[:at] + rng.choice(noise) + text[at:]
    return text


def mistyped(text: str, rng: Random) -> str:
    answer = dict(rng.choice((GOOD, EDITED)))
    for name in rng.sample(KEYS, rng.randint(1, 3)):
        answer[name] = rng.choice(WRONG_VALUES)
    if rng.random() < 0.3:
        answer["edits"] = [{"replace": rng.choice(WRONG_VALUES), "by": "x"}] * rng.randint(0, 20)
    if rng.random() < 0.3:
        answer["predictions"] = [{"task": "recall", "change": rng.choice(WRONG_VALUES)}] * rng.randint(0, 40)
    return json.dumps(answer)


MUTATIONS: tuple[Callable[[str, Random], str], ...] = (flipped, truncated, nested, repeated, noisy, mistyped)


def test_two_thousand_broken_answers_are_read_within_bounds_or_refused() -> None:
    rng = Random(6)
    bases = (OBJECT, json.dumps(EDITED), f"Here:\n```json\n{OBJECT}\n```\nbye", f"<think>hm</think>{OBJECT}", TERM)
    accepted, refusals = 0, []
    started = process_time()
    for number in range(2_000):
        text = rng.choice(bases)
        for _ in range(rng.randint(1, 3)):
            text = MUTATIONS[number % len(MUTATIONS)](text, rng) if number % 2 else rng.choice(MUTATIONS)(text, rng)
            text = text[:1_000_000] or "{"
        try:
            answer = researcher(text, tasks=TASKS)
        except TermError as refusal:
            refusals.append(str(refusal))
        else:
            accepted += 1
            assert obeys(answer)
    assert process_time() - started < 10
    assert accepted > 200  # neither way may be the only one that was tried
    assert len(refusals) > 200
    assert max(map(len, refusals)) < 1_000


MILLION = 1_000_000
BEFORE = " " * 600_000  # what follows is all that is read
ADVERSARIES = {
    "braces": "{" * MILLION,
    "brackets": "[" * MILLION,
    "objects": '{"a":' * 200_000,
    "objects of a key": '{"term":' * 125_000,
    "objects that begin": '{"' * 500_000,
    "objects spread": '{ "' + " " * 290_000 + '{"a' * 30_000,
    "lists in objects": '{"a":[' * 160_000,
    "closed objects": '{"a":' * 900 + "1" + "}" * 900,
    "closed objects, often": ('{"a":' * 400 + "1" + "}" * 400) * 400,
    "small objects": '{"a":1}' * 140_000,
    "answers": '{"term":1}' * 100_000,
    "quotes": '"' * MILLION,
    "quoted quotes": BEFORE + '{"' + '\\"' * 190_000,
    "backslashes": BEFORE + '{"' + "\\" * 390_000,
    "fences": "```" * 333_333,
    "fenced braces": "```{" * 250_000,
    "fenced lines": "```\n{\n" * 160_000,
    "long values": BEFORE + '{"a":"' * 100 + "b" * 390_000,
    "many lists": BEFORE + '{"a":[' * 100 + "[[[[[[]]]]]]," * 30_000,
    "many values": BEFORE + '{"a":[' * 100 + "1," * 190_000,
    "late mistakes": BEFORE + '{"a":"' + "b" * 300_000 + '",}' * 30_000,
    "lines, then objects": '{"a":1}' + "\n" * 990_000 + '{"a' * 3_000,
    "an object, lines, objects": BEFORE + '{"a' + "\n" * 390_000 + '{"a",' * 498,
    "digits": BEFORE + '{"term":' + "9" * 390_000 + "}",
    "fraction": BEFORE + '{"term":' + "9" * 190_000 + "." + "9" * 200_000 + "}",
    "exponent": BEFORE + '{"term":1e' + "9" * 390_000 + "}",
    "thoughts": "<think>" * 140_000,
    "ends of thoughts": "<think>" + "</think>" * 120_000,
    "blanks": " " * MILLION,
    "blank object": BEFORE + "{" + " " * 390_000,
    "lines": "\n" * MILLION,
    "comments": "#\n" * 500_000,
    "comments with blanks": "# \n \n" * 200_000,
    "name": "a" * MILLION,
    "grammar": "```grammar " + "1" * 390_000,
    "term": "mix(" * 250_000,
    "closed term": "mix(" + "x" * MILLION + ")",
    "closed term in a fence": BEFORE + "```\nmix(" + "x" * 390_000 + ")",
    "wide characters": "{\U0001f600" * 500_000,
    "controls": json.dumps({"term": "x", "hypothesis": "\u202e" * 100_000}),
    "cites": json.dumps({"term": "x", "cites": ["a" * 100] * 9_000}),
    "keys": json.dumps({"term": "x"} | {str(n): n for n in range(60_000)}),
}


@pytest.mark.parametrize("name", ADVERSARIES)
def test_a_megabyte_made_to_keep_the_reader_busy_does_not(name: str) -> None:
    text = ADVERSARIES[name]

    def seconds(reader: Callable[[], object]) -> float:
        told, started = "", process_time()  # of this process alone: what else the machine does is left out
        try:
            reader()
        except (TermError, ProposerFailed) as refusal:
            told = str(refusal)
        taken = process_time() - started
        assert len(told) < 1_000
        return taken

    for reader in (lambda: researcher(text, tasks=TASKS), lambda: content(text), lambda: usage(text)):
        assert any(seconds(reader) < 1 for _ in range(3))
