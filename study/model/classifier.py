"""A trained classifier as files: safetensors weights and a JSON description, with nothing executable in them.

```
weights.safetensors     weight.0, bias.0, ... of each layer; shift and scale of the inputs
classifier.json         format, threshold, classes, inputs (which encoder makes them), trained (what made the weights),
                        residual (numbers of the layers whose input is added to their output; format 1 has none)
```

`study export` puts them into an MLflow model, which loads this module; it needs neither torch nor the study.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from study.errors import ModelError

if TYPE_CHECKING:
    from trainables.packs.single import TrainedLane

FORMAT = 2

NONE = "none"

"""What is predicted where no class exceeds the threshold."""

_WEIGHTS, _DESCRIPTION = "weights.safetensors", "classifier.json"

_ROWS_AT_ONCE = 8192

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class InputColumn:
    """A part of the input: one encoded column.

    Attributes:
        column: The data's column.
        encoder: Name of the encoder.
        dimension: Numbers in its vector.
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
        shift: What is subtracted from the inputs (features,).
        scale: What they are then divided by (features,).
        classes: Name of each output.
        threshold: Confidence above which a class is predicted, else "none".
        inputs: What the inputs are, in their order.
        trained: What made the weights: candidate, items, digests.
        residual: Numbers, from 0, of the hidden layers whose input is added to their output, after the ReLU.
    """

    weights: tuple[Floats, ...]
    biases: tuple[Floats, ...]
    shift: Floats
    scale: Floats
    classes: tuple[str, ...]
    threshold: float
    inputs: tuple[InputColumn, ...]
    trained: Mapping[str, Any]
    residual: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        lane: TrainedLane,
        class_names: list[str],
        threshold: float,
        inputs: tuple[InputColumn, ...],
        trained: Mapping[str, Any],
    ) -> Classifier:
        """The classifier that a lane has become."""
        classes = tuple(class_names[label] for label in lane.known)
        residual = tuple(number for number, adds in enumerate(lane.residual) if adds)
        return cls(lane.weights, lane.biases, lane.shift, lane.scale, classes, threshold, inputs, trained, residual)

    @property
    def n_features(self) -> int:
        """Numbers in an input."""
        return len(self.shift)

    def probabilities(self, embeddings: npt.ArrayLike) -> Floats:
        """Probability of each class (items, classes); each stands alone, a row does not sum to 1.

        Args:
            embeddings: (items, features), the columns of `inputs` side by side.

        Raises:
            ModelError: The embeddings are of another width.
        """
        x = np.asarray(embeddings, dtype=np.float32)
        if x.ndim != 2 or x.shape[1] != self.n_features:
            made = ", ".join(f"{one.dimension} of {one.column} by {one.encoder}" for one in self.inputs)
            raise ModelError(f"The embeddings must be (items, {self.n_features}): {made}; got {x.shape}.")
        found = np.empty((len(x), len(self.classes)), dtype=np.float32)
        for start in range(0, len(x), _ROWS_AT_ONCE):
            h: Floats = (x[start : start + _ROWS_AT_ONCE] - self.shift) / self.scale
            for number, (weight, bias) in enumerate(zip(self.weights[:-1], self.biases[:-1], strict=True)):
                out = np.maximum(h @ weight + bias, np.float32(0))
                h = h + out if number in self.residual else out
            logits = h @ self.weights[-1] + self.biases[-1]
            found[start : start + _ROWS_AT_ONCE] = 1 / (1 + np.exp(-np.clip(logits, -80, 80)))
        return found

    def predict(self, embeddings: npt.ArrayLike, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """The class of each item or "none", its confidence, and the most probable class whatever the threshold.

        Args:
            embeddings: (items, features), the columns of `inputs` side by side.
            params: Nothing; MLflow hands it over.

        Returns:
            Columns `class`, `confidence`, `most_probable`.
        """
        probability = self.probabilities(embeddings)
        best, confidence = probability.argmax(1), probability.max(1)
        names = np.asarray(self.classes, dtype=object)[best]
        return pd.DataFrame(
            {
                "class": np.where(confidence > self.threshold, names, NONE),
                "confidence": confidence.astype(np.float64),
                "most_probable": names,
            }
        )

    def save(self, folder: Path) -> None:
        """Writes the classifier's files into an existing folder."""
        tensors = {"shift": self.shift, "scale": self.scale}
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            tensors |= {f"weight.{layer}": np.ascontiguousarray(weight), f"bias.{layer}": bias}
        save_file(tensors, folder / _WEIGHTS)
        description = {
            "format": FORMAT,
            "threshold": self.threshold,
            "classes": self.classes,
            "inputs": [asdict(one) for one in self.inputs],
            "trained": self.trained,
            "residual": self.residual,
        }
        text = json.dumps(description, indent=1, ensure_ascii=False)
        (folder / _DESCRIPTION).write_text(text, encoding="utf-8")


def load(folder: Path) -> Classifier:
    """Reads a classifier: from its own files, or from the MLflow model that holds them.

    Raises:
        ModelError: There is none, it is damaged, or of another version.
    """
    # In an MLflow model they lie where it puts its data.
    place = next((path.parent for path in sorted(folder.glob(f"data/*/{_DESCRIPTION}"))), folder)
    try:
        description = json.loads((place / _DESCRIPTION).read_text(encoding="utf-8"))
        if description.get("format") not in (1, FORMAT):
            raise ModelError(
                f"{place} must hold a classifier of format {FORMAT} or before, got {description.get('format')}."
            )
        tensors = load_file(place / _WEIGHTS)
        n_layers = sum(name.startswith("weight.") for name in tensors)
        return Classifier(
            weights=tuple(tensors[f"weight.{layer}"] for layer in range(n_layers)),
            biases=tuple(tensors[f"bias.{layer}"] for layer in range(n_layers)),
            shift=tensors["shift"],
            scale=tensors["scale"],
            classes=tuple(description["classes"]),
            threshold=float(description["threshold"]),
            inputs=tuple(InputColumn(**one) for one in description["inputs"]),
            trained=description["trained"],
            residual=tuple(description.get("residual", ())),
        )
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{folder} must hold an exported classifier ({error}). `study export` writes one.") from error


def _load_pyfunc(path: str) -> Classifier:
    """What MLflow calls to load the model."""
    return load(Path(path))
