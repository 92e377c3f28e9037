"""How much each hyperparameter of a method matters to the objective, by PED-ANOVA over the finished candidates."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from contextlib import suppress

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import create_trial

from analysis.results.aggregate import StudyResults
from analysis.results.load import IMPORTANCES
from embedding_jobs.files import write_whole
from study.config.schema import Search, StudySpec
from study.search.space import distributions
from trainables.records.choice import mean_score, score_of
from trainables.records.types import Candidate, SplitId, TrialConfig

# With fewer candidates, an importance says nothing.
_FEWEST_CANDIDATES = 10

# Fraction of the candidates that count as good. PED-ANOVA compares the values of a hyperparameter among them with those
# among all candidates.
_TARGET_QUANTILE = 0.25


def importances(search: Search, scores: Mapping[TrialConfig, float]) -> dict[str, dict[str, float]]:
    """Compute the importance of each hyperparameter, by method. Those of a method add up to 1.

    A candidate counts by how far its scores are above the means of their splits, since splits may try different
    candidates.

    Args:
        search: The study file's search.
        scores: Score of each trial of the choosing phase, higher is better.

    Returns:
        Only methods with several hyperparameters to choose and at least 10 candidates.

    References:
        Watanabe, Bansal and Hutter, "PED-ANOVA" (2023), https://arxiv.org/abs/2304.10255
    """
    found = {}
    for method in search.methods:
        space = distributions(search, method)
        trials = []
        for candidate, score in _above_split({t: s for t, s in scores.items() if t.candidate.method == method}).items():
            params = {name: value for name, value in candidate.params if name in space}
            with suppress(ValueError):  # outside the space: a candidate from before a change of the study file
                trials.append(create_trial(params=params, distributions=space, value=score))
        if len(space) < 2 or len(trials) < _FEWEST_CANDIDATES:
            continue
        study = optuna.create_study(direction="maximize")
        study.add_trials(trials)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            evaluator = PedAnovaImportanceEvaluator(target_quantile=_TARGET_QUANTILE, evaluate_on_local=False)
        found[method] = dict(get_param_importances(study, evaluator=evaluator))
    return found


def _above_split(scores: Mapping[TrialConfig, float]) -> dict[Candidate, float]:
    """Return by how much each candidate's scores exceed the mean of their split, on average."""
    of_split: dict[SplitId, list[float]] = {}
    for trial, score in scores.items():
        of_split.setdefault(trial.split, []).append(score)
    above: dict[Candidate, list[float]] = {}
    for trial, score in scores.items():
        above.setdefault(trial.candidate, []).append(score - mean_score(of_split[trial.split]))
    return {candidate: mean_score(own) for candidate, own in above.items()}


def write_importances(spec: StudySpec, results: StudyResults) -> dict[str, dict[str, float]]:
    """Write the importances that the report shows into the study's directory, and return them.

    The file is removed where there are none.
    """
    path = spec.root / IMPORTANCES
    description = results.description
    scores = {
        record.config: score_of(record.metrics, description.objective)
        for record in results.records
        if record.config.phase == description.choosing_phase
    }
    found = importances(spec.search, scores)
    if found:
        content = {"format": 1, "by": f"PED-ANOVA, best {_TARGET_QUANTILE:.0%}", "importances": found}
        write_whole(path, json.dumps(content).encode())
    else:
        path.unlink(missing_ok=True)
    return found
