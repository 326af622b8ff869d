"""The arms of a campaign's search, made from its configuration."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from archloom.agents.evolution import Evolution
from archloom.agents.proposer import Proposer
from archloom.agents.random_search import RandomSearch
from archloom.config import Config, EndpointSection
from archloom.db.records import BILLION, Lesson, Protocol
from archloom.db.store import Store
from archloom.errors import EnvironmentProblem
from archloom.evaluator.task_kinds import kind_name
from archloom.evaluator.task_table import KINDS
from archloom.search_space.sampling import Sampler

if TYPE_CHECKING:
    from archloom.agents.language_model.endpoints import Model
    from archloom.agents.language_model.record import Record

ARM = "language_model"


def make_arms(config: Config, store: Store, *, protocol: Protocol) -> dict[str, Proposer]:
    """The arms by name. Random and evolution are always there: other arms fall back on them.

    Errors: `NotFoundError` for lessons of a campaign that is not there.
    """
    arms = own_arms(config)
    if takes_part(config):
        name = config.campaign.name
        arms[ARM] = make_language_model(
            config,
            protocol,
            record=make_record(config, store),
            lessons=known_lessons(config, store),
            keep=lambda lesson: store.add_lesson(name, lesson),
        )
    return arms


def recorded_arms(config: Config, store: Store, *, protocol: Protocol) -> dict[str, Proposer]:
    """The same without a network: a language model says what it said before, and learns it anew."""
    arms = own_arms(config)
    if takes_part(config):
        record = make_record(config, store, online=False)
        arms[ARM] = make_language_model(config, protocol, record=record, lessons=earlier_lessons(config, store))
    return arms


def earlier_lessons(config: Config, store: Store) -> tuple[Lesson, ...]:
    """The lessons of the campaigns that a configuration learns from. Errors: `NotFoundError`."""
    assert config.language_model is not None
    return tuple(lesson for name in config.language_model.lessons_from for lesson in store.lessons(name))


def known_lessons(config: Config, store: Store) -> tuple[Lesson, ...]:
    """Those and the campaign's own. Errors: `NotFoundError`."""
    return (*earlier_lessons(config, store), *store.lessons(config.campaign.name))


def takes_part(config: Config) -> bool:
    """Whether the language-model arm has a share of the candidates."""
    return config.search.arms.language_model > 0


def key_of(model: EndpointSection) -> str:
    """The key of a model, "" where it needs none or the environment does not hold it."""
    return os.environ.get(model.key_variable, "") if model.key_variable else ""


def missing_key(model: EndpointSection) -> bool:
    """Whether a model needs a key that the environment does not hold."""
    return bool(model.key_variable) and not key_of(model)


def require_keys(config: Config) -> None:
    """Errors: `EnvironmentProblem` for keys of models that are to be asked and are not set, with what to do."""
    section = config.language_model
    if section is None or section.by_hand or not takes_part(config):
        return
    named: dict[str, EndpointSection] = {
        f"language_model.models[{place}]": model for place, model in enumerate(section.models)
    }
    if section.embeddings:
        named["language_model.embeddings"] = section.embeddings
    missing = {place: model for place, model in named.items() if missing_key(model)}
    if missing:
        problems = [
            f"{place} ({model.model}): the environment variable {model.key_variable} is not set"
            for place, model in missing.items()
        ]
        variable = next(iter(missing.values())).key_variable
        raise EnvironmentProblem(
            "\n".join(problems) + f'\n  → export {variable}=..., or key_variable = "" for a server that needs no key,'
            "\n    or leave the arm out: --set search.arms.language_model=0"
        )


def own_arms(config: Config) -> dict[str, Proposer]:
    """Random and evolution, which need nothing but the configuration."""
    sampler = make_sampler(config)
    return {
        "random": RandomSearch(sampler=sampler),
        "evolution": Evolution(sampler=sampler, **config.search.evolution.model_dump()),
    }


def make_sampler(config: Config) -> Sampler:
    """The sampler of a campaign's space."""
    return Sampler.default(
        depth=config.protocol.depth,
        max_size=config.search.max_size,
        width=config.protocol.width,
        length=max(task.length for task in config.protocol.tasks),
    )


def make_record(config: Config, store: Store, *, online: bool = True) -> "Record":
    """The record of a campaign's calls, which stores what is asked; only the record answers where it is not `online`,
    and where a person is to answer."""
    from archloom.agents.language_model.endpoints import Client
    from archloom.agents.language_model.record import Limits, Record

    assert config.language_model is not None
    name, money, by_hand = config.campaign.name, config.budget.money, online and config.language_model.by_hand
    models = (*make_models(config), *filter(None, [make_embedder(config)])) if online and not by_hand else ()
    return Record(
        {model.name: Client(model) for model in models},
        known=store.calls(name),
        reserve=lambda call: store.reserve_call(name, call),
        settle=lambda call: store.settle_call(name, call),
        limits=Limits(tokens=config.budget.tokens, cost=None if money is None else round(BILLION * money)),
        by_hand=by_hand,
    )


def make_models(config: Config) -> tuple["Model", ...]:
    """The models that write, with their keys where the environment holds them."""
    from archloom.agents.language_model.endpoints import Model

    assert config.language_model is not None
    return tuple(
        Model(
            name=model.model,
            base_url=model.base_url,
            key=key_of(model),
            prompt_price=model.prompt_price,
            completion_price=model.completion_price,
            weight=model.weight,
            structured=model.structured,
            max_tokens=model.max_tokens,
            deadline=model.deadline_seconds,
            retries=model.retries,
            concurrency=model.concurrency,
        )
        for model in config.language_model.models
    )


def make_embedder(config: Config) -> "Model | None":
    """The model of embeddings, if there is one."""
    from archloom.agents.language_model.endpoints import Model

    section = config.language_model.embeddings if config.language_model else None
    if section is None:
        return None
    return Model(
        name=section.model,
        base_url=section.base_url,
        key=key_of(section),
        prompt_price=section.price,
        completion_price=section.price,
        max_tokens=0,
        deadline=section.deadline_seconds,
        retries=section.retries,
    )


def make_language_model(
    config: Config,
    protocol: Protocol,
    *,
    record: "Record",
    lessons: Sequence[Lesson],
    keep: Callable[[Lesson], None] = lambda lesson: None,
) -> Proposer:
    """The language-model arm over a record of calls. `lessons` are known beforehand, `keep` stores a new one.

    Errors: as `archloom.knowledge_folder.everything` for the folder that `ARCHLOOM_KNOWLEDGE` names.
    """
    from archloom.agents.language_model.proposer import LanguageModelProposer, Settings
    from archloom.knowledge_folder import VARIABLE, everything

    section = config.language_model
    assert section is not None
    folder = os.environ.get(VARIABLE)
    return LanguageModelProposer(
        Settings(
            goal=section.goal,
            elites=section.elites,
            repairs=section.repairs,
            critic=section.critic,
            analyst=section.analyst,
            knowledge=section.knowledge,
            novelty=section.novelty,
        ),
        record=record,
        models=make_models(config),
        sampler=make_sampler(config),
        protocol=protocol,
        about={task.name: KINDS[kind_name(task)].about for task in protocol.tasks},
        entries=everything(Path(folder) if folder else None) if section.knowledge else (),
        embedder=make_embedder(config),
        lessons=lessons,
        keep=keep,
    )
