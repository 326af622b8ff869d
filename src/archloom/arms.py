"""The arms of a campaign's search, made from its configuration."""

import os

from archloom.agents.evolution import Evolution
from archloom.agents.proposer import Proposer
from archloom.agents.random_search import RandomSearch
from archloom.config import Config
from archloom.db.store import Store
from archloom.search_space.sampling import Sampler


def make_arms(config: Config, store: Store) -> dict[str, Proposer]:
    """The arms by name. Random and evolution are always there: other arms fall back on them."""
    sampler = Sampler.default(
        depth=config.protocol.depth,
        max_size=config.search.max_size,
        width=config.protocol.width,
        length=max(task.length for task in config.protocol.tasks),
    )
    arms: dict[str, Proposer] = {
        "random": RandomSearch(sampler=sampler),
        "evolution": Evolution(sampler=sampler, **config.search.evolution.model_dump()),
    }
    model, name = config.language_model, config.campaign.name
    if model is not None and config.search.arms.language_model > 0:
        from archloom.agents.language_model.proposer import LanguageModelProposer, make_client

        arms["language_model"] = LanguageModelProposer(
            client=make_client(base_url=model.base_url, model=model.model, key=os.environ.get(model.key_variable, "")),
            sampler=sampler,
            record=lambda call: store.record_call(name, call),
            replay=store.calls(name),
        )
    return arms
