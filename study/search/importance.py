"""How much each hyperparameter of a method matters to the objective, by PED-ANOVA on the candidates that were tried."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import create_trial

from analysis.results.aggregate import summarise_candidates
from analysis.results.load import IMPORTANCES, StudyResults, load_study
from embedding_jobs.files import write_whole
from study.config.schema import Search, StudySpec
from study.search.space import distributions
from trainables.records.types import Candidate

optuna.logging.set_verbosity(optuna.logging.WARNING)

FEWEST_CANDIDATES = 10

"""Candidates below which an importance says nothing."""

TARGET_QUANTILE = 0.25

"""Share of the candidates that count as good: what a hyperparameter does among them is compared with all."""


def importances(search: Search, scores: Mapping[Candidate, float]) -> dict[str, dict[str, float]]:
    """Importance of each hyperparameter, by method; those of a method add up to 1.

    Args:
        search: The study file's search.
        scores: Mean objective of every complete candidate.

    Returns:
        Methods with several hyperparameters to choose and at least `FEWEST_CANDIDATES` complete candidates.

    References:
        Watanabe, Bansal and Hutter, "PED-ANOVA" (2023), https://arxiv.org/abs/2304.10255
    """
    found = {}
    for method in search.methods:
        space = distributions(search, method)
        own = {candidate: score for candidate, score in scores.items() if candidate.method == method}
        own = {candidate: score for candidate, score in own.items() if _fits(candidate, space)}
        if len(space) < 2 or len(own) < FEWEST_CANDIDATES:
            continue
        study = optuna.create_study(direction="maximize")
        for candidate, score in own.items():
            params = {name: value for name, value in candidate.params if name in space}
            study.add_trial(create_trial(params=params, distributions=space, value=score))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            evaluator = PedAnovaImportanceEvaluator(target_quantile=TARGET_QUANTILE, evaluate_on_local=False)
        found[method] = {
            name: float(value) for name, value in get_param_importances(study, evaluator=evaluator).items()
        }
    return found


def write_importances(spec: StudySpec) -> None:
    """Writes what the report shows of importances into the study's directory; nothing where there is nothing to show.

    Args:
        spec: The study.
    """
    results = load_study(spec.root)
    path = spec.root / IMPORTANCES
    found = importances(spec.search, _scores(results))
    if not found:
        path.unlink(missing_ok=True)
        return
    content = {"format": 1, "by": f"PED-ANOVA, best {TARGET_QUANTILE:.0%}", "importances": found}
    write_whole(path, json.dumps(content).encode())


def _scores(results: StudyResults) -> dict[Candidate, float]:
    description = results.description
    return {
        summary.candidate: summary.figures[description.objective].mean
        for summary in summarise_candidates(results, description.choosing_phase)
        if summary.complete
    }


def _fits(candidate: Candidate, space: Mapping[str, BaseDistribution]) -> bool:
    """Whether a candidate is one of the space as it is now: a study file that was changed has other ones too."""
    params = dict(candidate.params)
    for name, kind in space.items():
        if name not in params:
            return False
        if isinstance(kind, CategoricalDistribution):
            fits = params[name] in kind.choices
        elif isinstance(kind, FloatDistribution | IntDistribution):
            fits = kind.low <= params[name] <= kind.high
        else:
            fits = False
        if not fits:
            return False
    return True
