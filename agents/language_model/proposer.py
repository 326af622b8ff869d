"""The language-model arm: a researcher who writes, a critic, repairs, and an analyst who learns, all on the record.

A model's text is data. It is cut to length, read by the algebra, held to the sampler's budget and never evaluated; what
is refused goes back with the reason, up to `repairs` times. A proposal is a function of the history, the seed and the
record of calls: a request that was recorded is answered from it, so a campaign that resumes asks the network nothing
twice, and one that is replayed asks it nothing. What cannot be mended here raises `ProposerFailed`, and the campaign
asks another arm.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import is_
from random import Random

from archloom.agents.knowledge.entries import Entry
from archloom.agents.knowledge.lessons import weighed
from archloom.agents.knowledge.meaning import Meanings, fused
from archloom.agents.knowledge.retrieval import Index
from archloom.agents.language_model import answers, choice, other_roles, researcher
from archloom.agents.language_model.board import Board
from archloom.agents.language_model.endpoints import CallFailed, Model
from archloom.agents.language_model.lengths import room_beside
from archloom.agents.language_model.novelty import Census
from archloom.agents.language_model.outcomes import outcomes
from archloom.agents.language_model.record import Message, Record, Request
from archloom.agents.language_model.situation import Situation, situation
from archloom.agents.language_model.written import MAX_LETS, architecture, parent_of
from archloom.agents.proposer import Proposal, ProposerFailed
from archloom.db.records import Lesson, Origin, Protocol, Role, Trial
from archloom.search_space.sampling import Sampler
from archloom.search_space.terms import Term, TermError

MAX_SHOWN = 12_000
"""Characters of a refused answer that go back with the refusal."""
LESSONS = 6
"""Lessons that are shown, those that fit the situation best."""
ENTRIES = 6
"""Entries of the knowledge base that are shown."""
FOUND = 4 * (LESSONS + ENTRIES)
"""Lessons and entries that are looked up, to choose these from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the arm is for and which roles take part, as `archloom.config.LanguageModel` says."""

    goal: str
    elites: int = 6
    repairs: int = 3
    critic: bool = True
    analyst: bool = True
    knowledge: bool = True
    novelty: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Brief:
    """What one proposal starts from: the conversation so far, the names it may cite, and what was tried."""

    messages: tuple[Message, ...]
    citable: frozenset[str]
    history: Sequence[Trial]
    tried: frozenset[str]


class LanguageModelProposer:
    """The arm of one campaign under `protocol`.

    `about` says what each task measures; `entries` and `lessons` are what is known at the beginning, `embedder` finds
    them by meaning too, and `keep` stores a lesson. What it holds beside its record (a board, bags, an index, vectors)
    only saves time.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        record: Record,
        models: Sequence[Model],
        sampler: Sampler,
        protocol: Protocol,
        about: Mapping[str, str],
        entries: Sequence[Entry] = (),
        embedder: Model | None = None,
        lessons: Sequence[Lesson] = (),
        keep: Callable[[Lesson], None] = lambda lesson: None,
    ) -> None:
        self.settings, self.record, self.models, self.sampler = settings, record, tuple(models), sampler
        self.protocol, self.about, self.entries, self.lessons = protocol, about, tuple(entries), list(lessons)
        self._keep, self._embedder, self._meanings = keep, embedder, Meanings()
        self._board, self._census, self._index = Board(protocol), Census(), Index()
        self._indexed: tuple[Entry | Lesson, ...] = ()
        self._system = researcher.system(sampler, protocol=protocol, lets=MAX_LETS)
        self._room = room_beside(self._system)

    def ask(self, history: Sequence[Trial], n: int, rng: Random) -> list[Proposal]:
        """Errors: `ProposerFailed` if no model answers or no answer holds a new valid term."""
        return [self._proposal(history, ask=rng.getrandbits(31)) for _ in range(n)]

    def _proposal(self, history: Sequence[Trial], *, ask: int) -> Proposal:
        now = situation(history, protocol=self.protocol, elites=self.settings.elites, board=self._board)
        places = outcomes(history, self._board)
        models = self._models(history, places, ask=ask)
        if self.settings.analyst:
            self._study(models[0], history, ask=ask)
        brief = self._brief(now, history, places, ask=ask)
        problem: ProposerFailed | None = None
        for model in models:
            try:
                return self._written(model, brief, ask=ask)
            except CallFailed as failed:
                problem = failed
        assert problem is not None
        raise problem

    def _models(self, history: Sequence[Trial], places: Mapping[str, float], *, ask: int) -> list[Model]:
        """Whom to ask, in order: whom the record says was asked, then by gain per cost. Errors: `CallFailed`."""
        spent, rng = self.record.spending, Random(ask)
        ranked = choice.ranked(self.models, trials=history, outcomes=places, spent=spent, rng=rng)
        before = self.record.asked(ask)
        known = {model.name: model for model in self.models}
        recorded = [known[name] for name in before if name in known]
        rest = [model for model in ranked if model.name not in before]
        models = recorded + [model for model in rest if not self.record.off(model)]
        if not models:
            raise CallFailed("; ".join(self.record.off(model) for model in self.models))
        return models

    # -- the analyst --------------------------------------------------------------------------------------------------

    def _study(self, model: Model, history: Sequence[Trial], *, ask: int) -> None:
        """A lesson from every candidate of a language model that has come to an end since the last call."""
        written = [trial for trial in history if trial.candidate.author and trial.results]
        studied = self.record.studied(ask) if written else frozenset()
        new = [trial for trial in written if trial.candidate.id not in studied]
        known = {trial.candidate.id: trial for trial in history} if new else {}
        names = {lesson.name for lesson in self.lessons} if new else set()
        for trial in new:
            try:
                lesson = self._lesson(model, trial, known, ask=ask)
            except (ProposerFailed, TermError):
                continue  # the call is on record, and a lesson less stops no search
            if lesson.name not in names:
                self.lessons.append(lesson)
                self._keep(lesson)

    def _lesson(self, model: Model, trial: Trial, known: Mapping[str, Trial], *, ask: int) -> Lesson:
        parents = trial.candidate.parents
        messages = other_roles.analyst(
            trial,
            protocol=self.protocol,
            about=self.about,
            parent=known.get(parents[0]) if parents else None,
            baselines=[each for each in known.values() if each.candidate.origin is Origin.ZOO],
        )
        request = Request(role=Role.ANALYST, messages=messages, seed=ask, ask=ask, subject=trial.candidate.id)
        text, when = self.record.answer(model, request)
        evidence = tuple(result.key for result in trial.results)
        return Lesson(text=answers.analyst(text), candidate=trial.candidate.id, evidence=evidence, when=when)

    # -- the researcher -----------------------------------------------------------------------------------------------

    def _brief(self, now: Situation, history: Sequence[Trial], places: Mapping[str, float], *, ask: int) -> _Brief:
        lessons, entries = self._retrieved(now, weighed(self.lessons, places, history), ask=ask)
        user = researcher.user(
            now,
            goal=self.settings.goal,
            about=self.about,
            lessons=lessons,
            entries=entries,
            room=self._room,
        )
        return _Brief(
            messages=({"role": "system", "content": self._system}, {"role": "user", "content": user}),
            citable=frozenset([*(lesson.name for lesson in lessons), *(entry.name for entry in entries)]),
            history=history,
            tried=frozenset(trial.candidate.id for trial in history),
        )

    def _retrieved(self, now: Situation, weighed: Sequence[Lesson], *, ask: int) -> tuple[list[Lesson], list[Entry]]:
        """The lessons and the entries that the situation asks for, best first."""
        if not self.settings.knowledge:
            return [], []
        wanted: tuple[Entry | Lesson, ...] = (*self.entries, *weighed)
        if len(wanted) != len(self._indexed) or not all(map(is_, wanted, self._indexed)):
            self._index.hold(wanted)
            self._indexed = wanted
        asked = researcher.query(now, goal=self.settings.goal, about=self.about)
        hits = self._index.search(asked, limit=FOUND)
        near = self._by_meaning(asked, wanted, ask=ask)
        found = fused(hits, near, limit=FOUND) if near else [hit.item for hit in hits]
        lessons = [item for item in found if isinstance(item, Lesson)]
        entries = [item for item in found if isinstance(item, Entry)]
        return lessons[:LESSONS], entries[:ENTRIES]

    def _by_meaning(self, asked: str, items: Sequence[Entry | Lesson], *, ask: int) -> Sequence[Entry | Lesson]:
        """What is nearest in meaning; nothing without a model of embeddings, or where it does not answer."""
        embedder = self._embedder
        if embedder is None:
            return ()
        known = [item for item in items if not isinstance(item, Lesson) or item.score > 0]
        embed = partial(self.record.vectors, embedder, ask=ask)
        try:
            return self._meanings.ranked(asked, known, embed=embed, limit=FOUND)
        except ProposerFailed:
            return ()

    def _written(self, model: Model, brief: _Brief, *, ask: int) -> Proposal:
        messages, reason, criticised = list(brief.messages), "", not self.settings.critic
        for repair in range(self.settings.repairs + 1):
            role = Role.REPAIR if repair else Role.RESEARCHER
            request = Request(role=role, messages=tuple(messages), seed=ask, ask=ask)
            text, _ = self.record.answer(model, request)
            try:
                answer = answers.researcher(text, tasks=[task.name for task in self.protocol.tasks])
                parent = parent_of(answer, brief.history)
                term = architecture(answer, parent=parent, sampler=self.sampler, tried=brief.tried)
                if not criticised:
                    criticised = True
                    self._criticise(model, term, answer.hypothesis, brief.history, ask=ask)
            except TermError as refusal:
                reason = str(refusal)
            else:
                return Proposal(
                    term=term,
                    origin=Origin.LANGUAGE_MODEL,
                    operator="repair" if repair else "edit" if answer.edits else "write",
                    parents=(parent.candidate.id,) if parent else (),
                    rationale=answer.hypothesis,
                    author=model.name,
                    predictions=answer.predictions,
                    cites=tuple(name for name in answer.cites if name in brief.citable),
                )
            messages += [{"role": "assistant", "content": text[:MAX_SHOWN]}, other_roles.repair(reason)]
        raise ProposerFailed(f"{model.name}: no valid term in {self.settings.repairs + 1} answers; the last: {reason}")

    # -- the critic ---------------------------------------------------------------------------------------------------

    def _criticise(self, model: Model, term: Term, hypothesis: str, history: Sequence[Trial], *, ask: int) -> None:
        """Errors: `TermError` for a close relative of what was tried in which the critic finds nothing new. A critic
        that gives no opinion is passed over."""
        relatives = self._census.relatives(term, history, within=self.settings.novelty)
        if not relatives:
            return
        told = [(relative.trial, relative.changes) for relative in relatives]
        messages = other_roles.critic(term.text, hypothesis=hypothesis, relatives=told, protocol=self.protocol)
        try:
            text, _ = self.record.answer(model, Request(role=Role.CRITIC, messages=messages, seed=ask, ask=ask))
            verdict = answers.critic(text)
        except (ProposerFailed, TermError):
            return
        if not verdict.novel:
            nearest = relatives[0].trial.candidate.short
            raise TermError(f"a critic finds nothing new in it beside {nearest}: {verdict.reason}")
