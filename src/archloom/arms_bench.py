"""Random search, evolution and the language-model arm, each alone in campaigns of its own under one protocol.

The campaigns lie in one store. One that has ended is not run again, and one that was interrupted is resumed, so the
measurement goes on from its record and pays for no answer twice. What the runs say is computed by
`archloom.arm_comparison`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from pydantic import ValidationError

from archloom import arm_comparison as comparison
from archloom import campaign, scripted_model
from archloom.config import Arms, Config, LanguageModel, ModelSection, Ray
from archloom.db.records import CampaignState, LanguageModelCall, Origin
from archloom.db.store import Store
from archloom.errors import ConfigError
from archloom.planner import REPEATS, generator
from archloom.progress import Progress
from archloom.scripted_server import ScriptedServer

ARMS = ("random", "evolution", "language_model")
ADDRESS, NAME, KEY = "ARCHLOOM_LLM_BASE_URL", "ARCHLOOM_LLM_MODEL", "ARCHLOOM_LLM_KEY"
PROMPT_PRICE, COMPLETION_PRICE = "ARCHLOOM_LLM_PROMPT_PRICE", "ARCHLOOM_LLM_COMPLETION_PRICE"
SMALL = {
    "search": {
        "baselines": ("mha", "linear_attention", "deltanet", "mamba2"),
        "lookahead": 4,
        "evolution": {"population": 8, "tournament": 3},
    },
    "executor": {"kind": "process"},
}
"""The fixed small campaign around a suite: few candidates, so each is decided from nearly all that came before."""
ENDED = (CampaignState.FINISHED, CampaignState.EXHAUSTED)
PLUMBING = (
    "A scripted model answered, which draws its terms by lot: this shows that the plumbing works and says nothing "
    f"about language models. Set {ADDRESS}, {NAME}, {PROMPT_PRICE} and {COMPLETION_PRICE} to measure a real one."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What `archloom bench arms` reports. `notice` is empty where real models were measured."""

    notice: str
    models: tuple[str, ...]
    protocol: str
    suite: str
    seeds: tuple[int, ...]
    candidates: int
    device_price: float
    arms: tuple[comparison.ArmSummary, ...]
    differences: tuple[comparison.Difference, ...]
    runs: tuple[comparison.Run, ...]


# -- what is measured -------------------------------------------------------------------------------------------------


def small(suite: str) -> Config:
    """The fixed small campaign on a suite. Errors: `ConfigError` for an unknown suite."""
    from archloom.evaluator.suites import suite_named

    try:
        title = suite_named(suite).title
    except ConfigError as problem:
        raise ConfigError(f"the suite {problem}\n  → archloom tasks lists them") from None
    return Config.model_validate({"campaign": {"name": "arms"}, "protocol": {"suite": title}, **SMALL})


def models_of(environment: Mapping[str, str]) -> tuple[ModelSection, ...]:
    """The model that environment variables describe, none without an address.

    Errors: `ConfigError` for one without a name or a price: 0 must be written.
    """
    if not environment.get(ADDRESS):
        return ()
    missing = [name for name in (NAME, PROMPT_PRICE, COMPLETION_PRICE) if not environment.get(name)]
    if missing:
        raise ConfigError(
            f"{ADDRESS} is set and {', '.join(missing)} is not; nothing is spent on a model without a name and prices"
            f"\n  → export {missing[0]}=...; prices are per million tokens, 0 for a server of your own"
        )
    try:
        return (
            ModelSection(
                base_url=environment[ADDRESS],
                model=environment[NAME],
                key_variable=KEY if environment.get(KEY) else "",
                prompt_price=float(environment[PROMPT_PRICE]),
                completion_price=float(environment[COMPLETION_PRICE]),
            ),
        )
    except ValidationError as problem:
        wrong = "; ".join(f"{detail['loc'][0]}: {detail['msg']}" for detail in problem.errors())
        raise ConfigError(f"the model of {ADDRESS}: {wrong}") from None
    except ValueError:
        prices = f"{environment[PROMPT_PRICE]!r} and {environment[COMPLETION_PRICE]!r}"
        raise ConfigError(f"{PROMPT_PRICE} and {COMPLETION_PRICE} are {prices}; write numbers") from None


@contextmanager
def answered(base: Config, environment: Mapping[str, str]) -> Iterator[Config]:
    """The configuration with the model to measure: the environment's, else its own, else the scripted one, which is
    served meanwhile."""
    models = models_of(environment) or (base.language_model.models if base.language_model else ())
    if models:
        yield _with_models(base, models)
        return
    with ScriptedServer(scripted_model.reply, models=(scripted_model.NAME,)) as server:
        yield _with_models(base, (scripted_model.section(server.url),))


def _with_models(base: Config, models: tuple[ModelSection, ...]) -> Config:
    section = base.language_model or LanguageModel(models=models)
    return base.model_copy(update={"language_model": section.model_copy(update={"models": models, "by_hand": False})})


def is_scripted(config: Config) -> bool:
    """Whether its one model is the scripted one."""
    return config.language_model is not None and [m.model for m in config.language_model.models] == [
        scripted_model.NAME
    ]


def campaign_of(base: Config, *, arm: str, seed: int) -> Config:
    """The campaign of one arm and replicate. Only that of the language model has a model."""
    search = base.search.model_copy(update={"arms": Arms(**{arm: 1.0})})
    own = base.campaign.model_copy(update={"name": f"{arm}-{seed}", "seed": seed})
    model = base.language_model if arm == "language_model" else None
    return base.model_copy(update={"campaign": own, "search": search, "language_model": model})


# -- measuring and reading --------------------------------------------------------------------------------------------


def measure(
    base: Config,
    *,
    replicates: int,
    store: Store,
    progress: Callable[[Progress], None],
    stopping: Callable[[], int],
) -> bool:
    """Run every campaign that has not ended; False if `stopping` came between.

    Errors: `ConfigError` if the store holds another measurement, and those of `archloom.campaign.run`.
    """
    known = {each.name: each for each in store.campaigns()}
    wanted = [campaign_of(base, arm=arm, seed=seed) for seed in seeds_of(base, replicates) for arm in ARMS]
    for config in wanted:
        if (before := known.get(config.campaign.name)) is not None:
            _check(config, Config.from_json(before.config), name=before.name)
    for config in wanted:
        before = known.get(config.campaign.name)
        if before is not None and before.state in ENDED:
            continue
        outcome = campaign.run(config, store=store, resume=before is not None, progress=progress, stopping=stopping)
        if outcome.state is CampaignState.STOPPED:
            return False
    return True


def seeds_of(base: Config, replicates: int) -> tuple[int, ...]:
    """The seeds of the search, one for every replicate, from the configuration's on."""
    return tuple(range(base.campaign.seed, base.campaign.seed + replicates))


def report(base: Config, *, replicates: int, store: Store, device_price: float) -> Measured:
    """What the campaigns of a store say; all have ended. `device_price` is for an hour of a device."""
    seeds = seeds_of(base, replicates)
    configs = [(arm, seed, campaign_of(base, arm=arm, seed=seed)) for seed in seeds for arm in ARMS]
    names = [config.campaign.name for _, _, config in configs]
    protocol = store.protocol(store.campaign(names[0]).protocol)
    histories = [store.history(name) for name in names]
    fitness = comparison.yardstick(histories, protocol, names=names)
    runs = tuple(
        comparison.walked(
            history,
            arm=arm,
            seed=seed,
            fitness=found,
            calls=_by_candidate(config, store, first=len(protocol.baselines)),
            refusals=sum(event.kind == "proposer" for event in store.events(config.campaign.name, last=10**9)),
            device_price=device_price,
        )
        for (arm, seed, config), history, found in zip(configs, histories, fitness, strict=True)
    )
    return Measured(
        notice=PLUMBING if is_scripted(base) else "",
        models=_named(base),
        protocol=protocol.id,
        suite=protocol.suite,
        seeds=seeds,
        candidates=base.budget.candidates,
        device_price=device_price,
        arms=comparison.summaries(runs),
        differences=(
            *comparison.differences(runs, arm="language_model", controls=("random", "evolution")),
            *comparison.differences(runs, arm="evolution", controls=("random",)),
        ),
        runs=runs,
    )


def _named(config: Config) -> tuple[str, ...]:
    models = config.language_model.models if config.language_model else ()
    return tuple(model.model if is_scripted(config) else f"{model.model} at {model.base_url}" for model in models)


def _by_candidate(config: Config, store: Store, *, first: int) -> dict[int, list[LanguageModelCall]]:
    """The calls of a campaign by the candidate that they were made for, told by the seed of its proposal. What cannot
    be told is charged to the first one, so that nothing is left out."""
    name = config.campaign.name
    calls = store.calls(name)
    places: dict[int, int] = {}
    if calls:
        for candidate in store.candidates(name):
            if candidate.origin is not Origin.ZOO:
                for number in range(REPEATS + 1):
                    ask = generator(config.campaign.seed, index=candidate.index, number=number).getrandbits(31)
                    places.setdefault(ask, candidate.index)
    found: dict[int, list[LanguageModelCall]] = defaultdict(list)
    for call in calls:
        found[places.get(call.ask, first)].append(call)
    return dict(found)


def _check(wanted: Config, stored: Config, *, name: str) -> None:
    if _comparable(wanted) != _comparable(stored):
        raise ConfigError(
            f"the record holds a campaign {name!r} of another measurement\n"
            "  → --record ANOTHER_FOLDER, or the options that it was begun with"
        )


def _comparable(config: Config) -> Config:
    """The configuration without what does not change its results: where it is kept and run, where a key is found, and
    the address of a scripted model, which has another one every time."""
    same = config.model_copy(
        update={
            "campaign": config.campaign.model_copy(update={"store": "-"}),
            "executor": config.executor.model_copy(update={"kind": "inline", "workers": 0}),
            "ray": Ray(),
        }
    )
    if config.language_model is None:
        return same
    models = (scripted_model.section("http://-"),) if is_scripted(config) else config.language_model.models
    return _with_models(same, tuple(model.model_copy(update={"key_variable": ""}) for model in models))
