"""A trained classifier as safetensors weights and a JSON description; nothing in its files is executable.

```
weights.safetensors     weight.0, bias.0, ... of each layer; shift and scale of the inputs; conformal.own and
                        conformal.highest, the sorted logits of the calibration items, for sets of labels
classifier.json         format, threshold_logit, temperature, error_rate of the sets, classes, inputs (which encoder
                        made them), trained (what made the weights), residual (indices of the layers whose input is
                        added to their output)
```

`study export` puts them into an MLflow model, which loads this module; it needs neither torch nor the study.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from embedding_jobs.files import read_json
from study.errors import ModelError
from study.model.conformal import ConformalLimits

_FORMAT = 3

# Predicted where no class exceeds the threshold.
NONE = "none"

_WEIGHTS, _DESCRIPTION = "weights.safetensors", "classifier.json"

# Tensors of the calibration items.
_OWN, _HIGHEST = "conformal.own", "conformal.highest"

_ROWS_AT_ONCE = 8192

_Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class InputColumn:
    """One encoded column of the input.

    Attributes:
        column: Name of the column in the table.
        fingerprint: Everything that a vector depends on.
    """

    column: str
    encoder: str
    dimension: int
    fingerprint: Mapping[str, Any]


@dataclass(frozen=True)
class Classifier:
    """A trained classifier of embeddings.

    Attributes:
        weights: Of each layer (inputs, outputs).
        biases: Of each layer (outputs,).
        shift: Subtracted from the inputs (features,).
        scale: The shifted inputs are divided by it (features,).
        classes: Name of each output.
        threshold_logit: Logit above which a class is predicted, else "none".
        inputs: Columns of the input, in their order.
        trained: What made the weights: candidate, items, digests.
        residual: Indices of the hidden layers whose input is added to their output, after the ReLU.
        temperature: Every logit is divided by it before it becomes a probability.
        error_rate: Of the sets of labels, unless a prediction asks for another one; None without sets.
        conformal: What the sets of labels follow from; None without sets.
    """

    weights: tuple[_Floats, ...]
    biases: tuple[_Floats, ...]
    shift: _Floats
    scale: _Floats
    classes: tuple[str, ...]
    threshold_logit: float
    inputs: tuple[InputColumn, ...]
    trained: Mapping[str, Any]
    residual: tuple[int, ...] = ()
    temperature: float = 1.0
    error_rate: float | None = None
    conformal: ConformalLimits | None = None

    @property
    def threshold(self) -> float:
        """Confidence above which a class is predicted; near 1 it is rounded, so predictions compare logits."""
        return float(_sigmoid(np.array(self.threshold_logit / self.temperature)))

    @property
    def n_features(self) -> int:
        """Length of an input."""
        return len(self.shift)

    def logits(self, embeddings: npt.ArrayLike) -> _Floats:
        """Return the logit of each class (items, classes).

        Args:
            embeddings: (items, features), the columns of `inputs` side by side.

        Raises:
            ModelError: The embeddings have another width.
        """
        x = np.asarray(embeddings, dtype=np.float32)
        if x.ndim != 2 or x.shape[1] != self.n_features:
            parts = ", ".join(f"{one.dimension} of {one.column} by {one.encoder}" for one in self.inputs)
            raise ModelError(f"The embeddings must be (items, {self.n_features}): {parts}; got {x.shape}.")
        found = np.empty((len(x), len(self.classes)), dtype=np.float32)
        for start in range(0, len(x), _ROWS_AT_ONCE):
            h: _Floats = (x[start : start + _ROWS_AT_ONCE] - self.shift) / self.scale
            for number, (weight, bias) in enumerate(zip(self.weights[:-1], self.biases[:-1], strict=True)):
                out = np.maximum(h @ weight + bias, np.float32(0))
                h = h + out if number in self.residual else out
            found[start : start + _ROWS_AT_ONCE] = h @ self.weights[-1] + self.biases[-1]
        return found

    def probabilities(self, embeddings: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return the probability of each class (items, classes), independent of the others: a row does not sum to 1.

        Arguments and errors are those of `logits`.
        """
        return _sigmoid(self.logits(embeddings) / self.temperature)

    def predict(self, embeddings: npt.ArrayLike, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Predict the class of each item.

        Args:
            embeddings: (items, features), the columns of `inputs` side by side.
            params: `error_rate` of the sets of labels, if it is not the classifier's.

        Returns:
            Columns `class` ("none" where no class exceeds the threshold), `confidence`, its `logit`, by which items are
            ranked, and `most_probable`, the most probable class at any confidence. With sets of labels also `set`, the
            list of classes that holds the item's class at the error rate (empty: "none"), and `p_known`, which is small
            for items of unknown classes (see `study.model.conformal`).

        Raises:
            ModelError: The embeddings have another width, or the error rate is not between 0 and 1.
        """
        logits = self.logits(embeddings)
        best, logit = logits.argmax(1), logits.max(1).astype(np.float64)
        names = np.asarray(self.classes, dtype=object)[best]
        found = pd.DataFrame(
            {
                "class": np.where(logit > self.threshold_logit, names, NONE),
                "confidence": _sigmoid(logit / self.temperature),
                "logit": logit,
                "most_probable": names,
            }
        )
        if self.conformal is not None:
            rate = (params or {}).get("error_rate", self.error_rate)
            sets = self.conformal.sets(logits, rate)
            found["set"] = [[self.classes[place] for place in np.flatnonzero(row)] for row in sets]
            found["p_known"] = self.conformal.p_known(logits)
        return found

    def save(self, folder: Path) -> None:
        """Write the classifier's files into an existing folder."""
        tensors = {"shift": self.shift, "scale": self.scale}
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            tensors |= {f"weight.{layer}": np.ascontiguousarray(weight), f"bias.{layer}": bias}
        if self.conformal is not None:
            tensors |= {_OWN: self.conformal.own, _HIGHEST: self.conformal.highest}
        save_file(tensors, folder / _WEIGHTS)
        description = {
            "format": _FORMAT,
            "threshold_logit": self.threshold_logit,
            "temperature": self.temperature,
            "error_rate": self.error_rate,
            "classes": self.classes,
            "inputs": [asdict(one) for one in self.inputs],
            "trained": self.trained,
            "residual": self.residual,
        }
        text = json.dumps(description, indent=1, ensure_ascii=False)
        (folder / _DESCRIPTION).write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class _Described:
    """What `classifier.json` says of a classifier."""

    classes: tuple[str, ...]
    threshold_logit: float
    temperature: float
    error_rate: float | None
    inputs: tuple[InputColumn, ...]
    trained: dict[str, Any]
    residual: tuple[int, ...]


_FROM_JSON = TypeAdapter(_Described)


def _sigmoid(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    return np.asarray((1 + np.tanh(logits.astype(np.float64) / 2)) / 2)


def load_classifier(folder: Path) -> Classifier:
    """Read a classifier from its own files, or from the MLflow model that contains them.

    Raises:
        ModelError: There is no classifier, or it is damaged or of another version.
    """
    # In an MLflow model, they are in a subfolder of its data.
    place = next((path.parent for path in sorted(folder.glob(f"data/*/{_DESCRIPTION}"))), folder)
    try:
        raw = read_json(place / _DESCRIPTION)
        found = raw.get("format") if isinstance(raw, dict) else type(raw).__name__
        if found != _FORMAT:
            raise ModelError(f"{place} must hold a classifier of format {_FORMAT}, got {found!s:.80}.")
        described = _FROM_JSON.validate_python(raw)
        tensors = load_file(place / _WEIGHTS)
        n_layers = sum(name.startswith("weight.") for name in tensors)
        classifier = Classifier(
            weights=tuple(tensors[f"weight.{layer}"] for layer in range(n_layers)),
            biases=tuple(tensors[f"bias.{layer}"] for layer in range(n_layers)),
            shift=tensors["shift"],
            scale=tensors["scale"],
            conformal=None if described.error_rate is None else ConformalLimits(tensors[_OWN], tensors[_HIGHEST]),
            **{field.name: getattr(described, field.name) for field in fields(_Described)},
        )
        if problem := next(_problems(classifier), None):
            raise ModelError(f"{place} must hold a classifier whose parts fit together: {problem}. Export it again.")
        return classifier
    except ModelError:
        raise
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        reason = f"`{'.'.join(map(str, first['loc']))}` in {_DESCRIPTION}: {first['msg']}"
    except KeyError as error:
        reason = f"{_WEIGHTS} has no tensor {error}"
    except (OSError, SafetensorError, ValueError, TypeError, AttributeError) as error:
        reason = str(error)
    raise ModelError(f"{folder} must hold an exported classifier ({reason}). `study export` writes one.")


def _problems(one: Classifier) -> Iterator[str]:
    """Yield what does not fit together in a classifier that was read from files."""
    tensors = (*one.weights, *one.biases, one.shift, one.scale)
    if any(tensor.dtype != np.float32 or not np.isfinite(tensor).all() for tensor in tensors):
        yield "its weights are not finite numbers of type float32"
    widths = [one.shift.shape, *(bias.shape for bias in one.biases)]
    if not one.weights or any(len(shape) != 1 for shape in widths):
        yield f"it needs layers with biases of one dimension, got {widths[1:]}"
        return
    expected = [(*before, *after) for before, after in pairwise(widths)]
    if [weight.shape for weight in one.weights] != expected:
        yield f"the weights must be {expected}, got {[weight.shape for weight in one.weights]}"
    if one.scale.shape != one.shift.shape or not one.scale.all():
        yield f"the scale of the inputs must be {one.shift.shape} and nowhere 0, got {one.scale.shape}"
    if widths[-1] != (len(one.classes),) or not one.classes:
        yield f"the last layer must have an output for each of {len(one.classes)} classes, got {widths[-1][0]}"
    if one.n_features != sum(column.dimension for column in one.inputs):
        yield f"its columns must have {one.n_features} dimensions, got {[column.dimension for column in one.inputs]}"
    if not math.isfinite(one.threshold_logit):
        yield f"the threshold must be a finite logit, got {one.threshold_logit}"
    if not 0 < one.temperature < math.inf:
        yield f"the temperature must be above 0, got {one.temperature}"
    if one.error_rate is not None and not 0 < one.error_rate < 1:
        yield f"the error rate must be above 0 and below 1, got {one.error_rate}"
    for values in () if one.conformal is None else (one.conformal.own, one.conformal.highest):
        if values.ndim != 1 or not len(values) or not np.isfinite(values).all() or (np.diff(values) < 0).any():
            yield "the logits of the calibration items must be finite and sorted"
    for layer in one.residual:
        if not 0 <= layer < len(one.weights) - 1 or widths[layer] != widths[layer + 1]:
            yield f"layer {layer} cannot be residual: it is no hidden layer, or changes the width"


def _load_pyfunc(path: str) -> Classifier:
    """Load the model for MLflow, which requires this name."""
    return load_classifier(Path(path))
