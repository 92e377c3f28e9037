"""Classifiers that are no networks, as rows to compare with: logistic regression, nearest neighbours, class means.

A reference is a method whose classifier is fitted by a `Judge` instead of being trained by steps. Everything else is as
for any method: the same splits, standardised embeddings, hyperparameters, figures and decisions.
Importing this module imports neither torch nor scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from trainables.methods.noise import control
from trainables.methods.protocol import Augmentation, Hyperparameter
from trainables.records.types import REFERENCE

_Floats = npt.NDArray[np.floating]

# Given embeddings (items, features), returns scores (items, classes), whose softmax are the probabilities.
Predict = Callable[[_Floats], _Floats]


class Judge(Protocol):
    """What fits a classifier."""

    def __call__(self, x: _Floats, classes: npt.NDArray[np.int64], params: Mapping[str, float]) -> Predict:
        """Fit to training items.

        Args:
            x: Standardised embeddings (items, features).
            classes: Class of each item (items,), from 0 to the number of classes less 1; each has an item.
            params: Value of each hyperparameter.
        """
        ...


@dataclass(frozen=True)
class Reference(Augmentation):
    """A method whose classifier a judge fits; `reference_` begins its name, and its transform does nothing.

    Attributes:
        judge: Fits the classifier.
    """

    judge: Judge | None = None


def logistic_regression(x: _Floats, classes: npt.NDArray[np.int64], params: Mapping[str, float]) -> Predict:
    """Fit a softmax regression with an L2 penalty, of inverse strength `c`, by L-BFGS."""
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=params["c"], max_iter=1000).fit(x, classes)
    return lambda rows: np.asarray(fitted.predict_log_proba(rows))


def nearest_neighbours(x: _Floats, classes: npt.NDArray[np.int64], params: Mapping[str, float]) -> Predict:
    """Take the share of each class among the `k` nearest training items by cosine, and one vote spread over all."""
    from sklearn.neighbors import KNeighborsClassifier

    k, n_classes = min(int(params["k"]), len(x)), int(classes.max()) + 1
    fitted = KNeighborsClassifier(k, metric="cosine").fit(x, classes)
    # Without that vote most classes would have a probability of exactly 0.
    return lambda rows: np.log((k * np.asarray(fitted.predict_proba(rows)) + 1 / n_classes) / (k + 1))


def nearest_mean(x: _Floats, classes: npt.NDArray[np.int64], params: Mapping[str, float]) -> Predict:
    """Take minus half the squared distance to each class mean, in units of the mean variance within classes.

    That is the classifier of normal classes that are equally likely and as wide in every direction.
    """
    counts = np.bincount(classes)
    means = np.zeros((len(counts), x.shape[1]))
    np.add.at(means, classes, x)
    means /= counts[:, None]
    spread = float(((x - means[classes]) ** 2).mean()) or 1.0

    def predict(rows: _Floats) -> _Floats:
        squares = (rows**2).sum(1)[:, None] - 2 * rows @ means.T + (means**2).sum(1)
        return np.asarray(-0.5 * squares / spread)

    return predict


def _reference(
    name: str, judge: Judge, hyperparameters: Mapping[str, Hyperparameter], summary: str, source: str
) -> Reference:
    return Reference(
        f"{REFERENCE}_{name}", control, hyperparameters, version="1", summary=summary, source=source, judge=judge
    )


REFERENCES = (
    _reference(
        "logistic_regression",
        logistic_regression,
        {"c": Hyperparameter(1, 0, 1e6, low_included=False)},
        "No network: softmax regression with an L2 penalty of inverse strength c.",
        "scikit-learn, LogisticRegression",
    ),
    _reference(
        "knn",
        nearest_neighbours,
        {"k": Hyperparameter(5, 1, 10_000, whole=True)},
        "No network: the classes of the k nearest training items by cosine.",
        "scikit-learn, KNeighborsClassifier",
    ),
    _reference("nearest_mean", nearest_mean, {}, "No network: the nearest class mean.", "Rocchio 1971"),
)
