"""How much each hyperparameter of a method matters to the objective, by PED-ANOVA over the finished candidates."""

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
from analysis.results.load import IMPORTANCES, StudyResults
from embedding_jobs.files import write_whole
from study.config.schema import Search, StudySpec
from study.search.space import distributions
from trainables.records.types import Candidate

optuna.logging.set_verbosity(optuna.logging.WARNING)

# With fewer candidates, an importance says nothing.
_FEWEST_CANDIDATES = 10

# Fraction of the candidates that count as good. PED-ANOVA compares the values of a hyperparameter among them with those
# among all candidates.
_TARGET_QUANTILE = 0.25


def importances(search: Search, scores: Mapping[Candidate, float]) -> dict[str, dict[str, float]]:
    """Compute the importance of each hyperparameter, by method. Those of a method add up to 1.

    Args:
        search: The study file's search.
        scores: Mean objective of every complete candidate.

    Returns:
        Only methods with several hyperparameters to choose and at least 10 complete candidates.

    References:
        Watanabe, Bansal and Hutter, "PED-ANOVA" (2023), https://arxiv.org/abs/2304.10255
    """
    found = {}
    for method in search.methods:
        space = distributions(search, method)
        own = {one: score for one, score in scores.items() if one.method == method and _fits(one, space)}
        if len(space) < 2 or len(own) < _FEWEST_CANDIDATES:
            continue
        study = optuna.create_study(direction="maximize")
        for candidate, score in own.items():
            params = {name: value for name, value in candidate.params if name in space}
            study.add_trial(create_trial(params=params, distributions=space, value=score))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            evaluator = PedAnovaImportanceEvaluator(target_quantile=_TARGET_QUANTILE, evaluate_on_local=False)
        found[method] = dict(get_param_importances(study, evaluator=evaluator))
    return found


def write_importances(spec: StudySpec, results: StudyResults) -> dict[str, dict[str, float]]:
    """Write the importances that the report shows into the study's directory, and return them.

    The file is removed where there are none.
    """
    path = spec.root / IMPORTANCES
    description = results.description
    scores = {
        summary.candidate: summary.figures[description.objective].mean
        for summary in summarise_candidates(results, description.choosing_phase)
        if summary.complete
    }
    found = importances(spec.search, scores)
    if found:
        content = {"format": 1, "by": f"PED-ANOVA, best {_TARGET_QUANTILE:.0%}", "importances": found}
        write_whole(path, json.dumps(content).encode())
    else:
        path.unlink(missing_ok=True)
    return found


def _fits(candidate: Candidate, space: Mapping[str, BaseDistribution]) -> bool:
    """Return whether a candidate lies in the space. Candidates from before a change of the study file may not."""
    params = dict(candidate.params)

    def fits(value: float, kind: BaseDistribution) -> bool:
        if isinstance(kind, CategoricalDistribution):
            return value in kind.choices
        return isinstance(kind, FloatDistribution | IntDistribution) and kind.low <= value <= kind.high

    return all(name in params and fits(params[name], kind) for name, kind in space.items())
