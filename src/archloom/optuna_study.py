"""A campaign as an Optuna study, so that Optuna's dashboard and analyses can read it.

One trial for each candidate that has finished: complete if it has a score at the highest rung that the campaign
reached, pruned if it stopped at a lower one, failed if it failed. The value is the score at its highest rung, the
intermediate values are its scores by rung. Candidates have no parameters in Optuna's sense: term, id and metrics are
user attributes.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from archloom.db.records import Campaign, Trial
from archloom.errors import ConfigError, EnvironmentProblem

METRICS = ("loss", "accuracy", "parameters", "flops", "state_bytes")


def write_study(path: Path, *, campaign: Campaign, trials: Sequence[Trial]) -> int:
    """Add the study to the journal file at `path`, which is made if it is missing; how many trials were written.

    Errors: `ConfigError` if the file holds a study of that name, `EnvironmentProblem` if it cannot be written.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    highest = max((trial.rung for trial in trials), default=-1)
    written = [_trial(trial, highest=highest) for trial in trials if trial.failure or trial.rung >= 0]
    try:
        study = optuna.create_study(
            study_name=campaign.name,
            storage=JournalStorage(JournalFileBackend(str(path))),
            direction="maximize",
            sampler=optuna.samplers.RandomSampler(seed=campaign.seed),
        )
        study.set_user_attr("protocol", campaign.protocol)
        study.set_user_attr("config_hash", campaign.config_hash)
        study.add_trials(written)
    except optuna.exceptions.DuplicatedStudyError:
        raise ConfigError(f"{path} holds a study {campaign.name!r} already; choose another path") from None
    except OSError as error:
        raise EnvironmentProblem(f"{path} cannot be written: {error.strerror}; choose another path") from None
    return len(written)


def _trial(trial: Trial, *, highest: int) -> FrozenTrial:
    candidate = trial.candidate
    attributes: dict[str, str | float] = {
        "term": candidate.term,
        "id": candidate.id,
        "origin": candidate.origin.value,
        "name": candidate.name or candidate.short,
        **{metric: value for metric in METRICS if math.isfinite(value := trial.metric(metric))},
    }
    scores = {rung: float(trial.score(rung)) for rung in range(trial.rung + 1)}
    reached = {rung: score for rung, score in scores.items() if math.isfinite(score)}
    if trial.failure is not None or not reached:
        attributes["failure"] = f"{trial.failure.kind}: {trial.failure.reason}" if trial.failure else "no finite score"
        return create_trial(state=TrialState.FAIL, user_attrs=attributes, intermediate_values=reached)
    state = TrialState.COMPLETE if trial.rung == highest else TrialState.PRUNED
    return create_trial(state=state, value=reached[max(reached)], user_attrs=attributes, intermediate_values=reached)
