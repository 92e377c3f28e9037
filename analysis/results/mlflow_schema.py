"""How a study lies on an MLflow server: the names that its writer and its reader share.

A study has one run. Below it lies one run for each candidate in each phase, and below that one for each trial. A run is
found by its key, a tag; `/` separates the parts of a key:

| run | key | holds |
|---|---|---|
| study | `NAME/DIGEST` | settings as params, the data as a dataset, `study.json` and the report as artifacts |
| candidate | study key, phase, candidate | phase, method and hyperparameters; `SUMMARISED` over its splits |
| trial | study key, phase, candidate, split | the same with its split; figures, learning curves, duration, provenance |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainables.records.types import Candidate, SplitId, TrialConfig

_TAG_PREFIX = "ablation."
KEY_TAG = f"{_TAG_PREFIX}key"
STUDY_TAG = f"{_TAG_PREFIX}study"  # the key of the study, on each of its runs

# Folder among the artifacts of a study's run: the notes on packs that failed and on candidates that were stopped.
UNFINISHED = "unfinished"

# Folder beside a SQLite database, for its artifacts, and the tag of the experiments whose artifacts lie there.
ARTIFACTS = "mlartifacts"
BESIDE_TAG = f"{_TAG_PREFIX}artifacts_beside_database"

DURATION = "duration_s"
N_SPLITS = "n_splits"

# The metric of each learning curve, by field of `Curves`.
LEARNING_CURVES: Mapping[str, str] = {
    "epoch_loss": "train_loss",
    "epoch_accuracy": "curve_accuracy",
    "epoch_accuracy_known": "curve_accuracy_known",
    "epoch_accuracy_none": "curve_accuracy_none",
    "epoch_top1": "curve_top1",
    "epoch_auc_weighted": "curve_auc_weighted",
}
# Metrics of a trial's run that are not figures of its record.
NOT_FIGURES = frozenset({*LEARNING_CURVES.values(), DURATION})

# The figures that a candidate's run shows, as mean and maximum deviation over its splits.
SUMMARISED = ("auc_weighted", "top1", "macro_f1", "accuracy", "accuracy_chosen", "ece_known", "ood_auroc")

_COORDINATES = ("phase", "method", "split")


def study_key(name: str, digest: str) -> str:
    """Return the key of a study from its name and the digest of its settings."""
    return f"{name}/{digest}"


def candidate_key(study: str, phase: str, candidate: Candidate) -> str:
    """Return the key of a candidate's run in one phase, in the study of a key."""
    return f"{study}/{phase}/{candidate.key}"


def trial_key(study: str, config: TrialConfig) -> str:
    """Return the key of a trial's run, in the study of a key."""
    return f"{study}/{config.key}"


def runs_of(study: str) -> str:
    """Return MLflow's search filter for the runs of the study of a key, or of every study of a name."""
    name = study.replace("'", "")  # the filter quotes it, and no study's name has a quote
    return f"tags.`{STUDY_TAG}` " + (f"= '{name}'" if "/" in name else f"LIKE '{name}/%'")


def tags_of(study: str, key: str, provenance: Mapping[str, str]) -> dict[str, str]:
    """Return the tags of a run: the key of its study, its own key, and what made it."""
    return {**{f"{_TAG_PREFIX}{name}": value for name, value in provenance.items()}, KEY_TAG: key, STUDY_TAG: study}


def provenance_of(tags: Mapping[str, str]) -> dict[str, str]:
    """Return what made a run, from its tags."""
    return {
        name.removeprefix(_TAG_PREFIX): value
        for name, value in tags.items()
        if name.startswith(_TAG_PREFIX) and name not in (KEY_TAG, STUDY_TAG)
    }


def candidate_params(config: TrialConfig) -> dict[str, Any]:
    """Return the params of a candidate's run."""
    return {"phase": config.phase, "method": config.candidate.method, **dict(config.candidate.params)}


def trial_params(config: TrialConfig) -> dict[str, Any]:
    """Return the params of a trial's run."""
    return {**candidate_params(config), "split": str(config.split)}


def is_trial(params: Mapping[str, str]) -> bool:
    """Return whether a run with these params is a trial's."""
    return "split" in params


def config_of(params: Mapping[str, str]) -> TrialConfig:
    """Return a trial's coordinates from the params of its run."""
    hyperparameters = {name: float(value) for name, value in params.items() if name not in _COORDINATES}
    seed, _, inner = params["split"].partition("/")
    split = SplitId(int(seed), int(inner) if inner else None)
    return TrialConfig(params["phase"], Candidate.of(params["method"], hyperparameters), split)


def deviation_metric(figure: str) -> str:
    """Return the metric of a figure's maximum deviation over the splits of a candidate."""
    return f"{figure}_max_deviation"
