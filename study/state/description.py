"""What a study's directory says of itself, `study.json`: what was asked for, of which data, under which choices.

The report reads it, and a later run is refused where it would mix its records with those of other settings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from embedding_jobs.files import write_whole
from embedding_jobs.store.store import Embeddings, Store
from study.config.schema import StudySpec, Training, digest, phases
from study.errors import DescriptionError
from study.search.space import asked, listed, n_candidates
from trainables.records.failures import judged_by
from trainables.records.types import CONTRASTIVE, Candidate
from trainables.sampling.splits import n_folds, n_searched_folds

DESCRIPTION = "study.json"

"""What a study's directory says of itself; the report reads it."""

NO_STUDY = "holds no study"

"""What `read_description` says of a directory without one; who asks a cluster knows it by that."""


def describe(spec: StudySpec, embeddings: Embeddings, class_names: list[str]) -> dict[str, Any]:
    """The contents of `study.json`.

    Args:
        spec: The study.
        embeddings: What its trials read.
        class_names: Every label, sorted.
    """
    deciding = spec.deciding_settings()
    notes = []
    image = spec.encoders.image
    if image is not None and not image.pretrained and image.checkpoint is None:
        notes.append(
            f"The image encoder, {image.model}, is untrained: its weights are random, and its vectors say little."
        )
    for column, n_empty in Store(spec.store).items().n_empty_texts.items():
        if n_empty:
            notes.append(
                f"{n_empty} of {len(embeddings.ids)} items have no {column}; they were encoded as an empty text."
            )
    return {
        "format": 1,
        "name": spec.name,
        "preset": spec.preset,
        "protocol": spec.splits.protocol,
        "objective": spec.objective.metric,
        "threshold": spec.objective.threshold,
        **plan_of(spec),
        "settings": spec.model_dump(mode="json"),
        "choices": _choices(spec),
        "data": {
            "digest": _data_digest(spec),
            "n_items": len(embeddings.ids),
            "n_classes": len(class_names),
            "class_names": class_names,
            "n_features": int(embeddings.matrix.shape[1]),
            "embeddings": embeddings.provenance["columns"],
            "notes": notes,
        },
        "deciding_settings": deciding,
        "digests": {"settings": digest({**deciding, "embeddings": embeddings.digest}), "embeddings": embeddings.digest},
    }


def read_description(directory: Path) -> dict[str, Any]:
    """What a study's directory says of itself.

    Raises:
        DescriptionError: No study was run there.
    """
    path = directory / DESCRIPTION
    if not path.exists():
        raise DescriptionError(
            f"{directory} {NO_STUDY}; run `study run` first. One that has just been started is "
            "there once its embeddings are made."
        )
    try:
        loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if missing := {"digests", "deciding_settings", "data"} - set(loaded):
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    except (ValueError, TypeError) as error:
        raise DescriptionError(f"{path} cannot be read ({error}). Remove it: `study run` writes it anew.") from None
    return loaded


def refuse_changed_file(spec: StudySpec) -> None:
    """Refuses a study file whose settings are not those of the records in its directory; looks at no data.

    Raises:
        DescriptionError: With the settings that differ.
    """
    if (spec.root / DESCRIPTION).exists() and any(spec.records.glob("*.parquet")):
        new = json.loads(json.dumps(spec.deciding_settings()))
        _refuse_differing(spec, read_description(spec.root)["deciding_settings"], new)


def refuse_other_settings(spec: StudySpec, description: Mapping[str, Any]) -> None:
    """Refuses to go on in a directory whose records were made with other settings or data.

    Raises:
        DescriptionError: With the settings that differ.
    """
    path = spec.root / DESCRIPTION
    if not path.exists() or not any(spec.records.glob("*.parquet")):
        return
    before = read_description(spec.root)
    if before["digests"] == description["digests"]:
        return
    old = {**before["deciding_settings"], "embeddings": before["digests"]["embeddings"]}
    new = {**description["deciding_settings"], "embeddings": description["digests"]["embeddings"]}
    _refuse_differing(spec, old, new)
    raise DescriptionError(f"{path} describes another study. Give the study another `directory`, or undo the change.")


def _refuse_differing(spec: StudySpec, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    keys = list(dict.fromkeys([*new, *old]))
    differing = [f"{key}: {old.get(key)} -> {new.get(key)}" for key in keys if old.get(key) != new.get(key)]
    if differing:
        raise DescriptionError(
            f"The records in {spec.records} were made with other settings or data ({'; '.join(differing)}). "
            "Give the study another `directory`, or undo the change."
        )


def planned(spec: StudySpec, description: Mapping[str, Any]) -> dict[str, Any]:
    """A description with the splits, methods and candidates that a study file asks for now."""
    now = {**description, **plan_of(spec), "settings": spec.model_dump(mode="json")}
    if "candidates" in description:
        none: dict[str, list[Candidate]] = {method: [] for method in spec.search.methods}
        known = none | candidates_before(spec, description) | listed(spec.search)
        now["candidates"] = candidates_entry(spec, known)
    return now


def candidates_before(spec: StudySpec, description: Mapping[str, Any]) -> dict[str, list[Candidate]]:
    """The candidates of each method that were proposed before, in order, where the same would be asked for now.

    Args:
        spec: The study.
        description: Its `study.json`, if there is one.
    """
    return {
        method: [Candidate.of(method, params) for params in found["proposed"]][: n_candidates(spec.search, method)]
        for method, found in description.get("candidates", {}).items()
        if method in spec.search.methods and found["asked"] == asked(spec.search, method)
    }


def candidates_entry(spec: StudySpec, candidates: Mapping[str, Sequence[Candidate]]) -> dict[str, Any]:
    """Proposed candidates as `study.json` has them."""
    return {
        method: {"asked": asked(spec.search, method), "proposed": [dict(one.params) for one in proposed]}
        for method, proposed in candidates.items()
    }


def differs(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two descriptions of a study plan other splits, methods or candidates."""
    if one["settings"]["search"]["methods"] != other["settings"]["search"]["methods"]:
        return True
    return any(one[key] != other[key] for key in ("methods", "splits", "n_candidates"))


def plan_of(spec: StudySpec) -> dict[str, Any]:
    """Methods, splits and number of candidates, as `study.json` has them."""
    return {
        "methods": list(spec.search.methods),
        "splits": {phase: list(spec.split_seeds(phase)) for phase in phases(spec.splits.protocol)},
        "n_candidates": {method: n_candidates(spec.search, method) for method in spec.search.methods},
    }


def write_description(directory: Path, description: Mapping[str, Any]) -> None:
    """Writes `study.json`, whole or not at all."""
    write_whole(directory / DESCRIPTION, json.dumps(description, indent=1).encode())


def _data_digest(spec: StudySpec) -> str:
    """Of the table's ids, labels and inputs."""
    items = Store(spec.store).items()
    return digest({"ids": items.ids_digest, "labels": items.labels_digest, "inputs": items.input_digests})


def _choices(spec: StudySpec) -> dict[str, str]:
    """What the papers leave open, and what this study does."""
    training = spec.training
    return {
        "Optimizer": f"AdamW, decoupled weight decay {training.weight_decay:g}",
        "Batch size": f"{training.batch_size} items; an epoch's last, incomplete batch is left out",
        "Outputs": "the known classes of the split",
        "Loss": "binary cross-entropy, mean over batch and classes",
        "Inputs": "standardised with the training items' mean and deviation" if training.standardize else "as encoded",
        "Pairs": "first half of a randomly ordered batch with the second half; one lambda a pair",
        "Sampling": "every class equally likely, with replacement"
        if training.class_balanced
        else "every item once an epoch",
        "Early stopping": _early_stopping(training),
        "Unknown classes": _unknown_classes(spec),
        **_contrastive(spec),
        "Evaluation": f"every {training.evaluate_every_epochs} epochs and at the end",
        **({"Search": _search(spec)} if spec.splits.protocol == "nested" else {}),
    }


def _search(spec: StudySpec) -> str:
    fraction, pruning = spec.splits.train_fraction, spec.search.pruning
    text = (
        f"80/20 cuts inside {n_searched_folds(fraction)} of the {n_folds(fraction)} folds, whose items are then in no "
        "test set"
    )
    if pruning.asha is not None:
        figure, factor = judged_by(spec.objective.metric), f"{pruning.asha.reduction_factor:g}"
        text += (
            f"; by its {figure}, a candidate stops at {pruning.asha.grace_epochs} epochs, or {factor} times as many, "
            f"and so on, where it is not among the best 1/{factor} of its method's earlier batches there"
        )
    if pruning.racing is not None:
        text += (
            f"; a candidate that is worse than its method's best at confidence {pruning.racing.confidence:g} gets no "
            "further splits"
        )
    return text


def _contrastive(spec: StudySpec) -> dict[str, str]:
    """What contrastive methods do, where there are any; and what `auto` means."""
    training, methods, found = spec.training, spec.search.methods, {}
    if training.precision != "float32":
        found["Matrix products"] = f"{training.precision} in training, float32 in evaluation"
    if training.residual:
        found["Hidden layers"] = "residual: the input is added to the output where the two are equally wide"
    if any(Candidate(method).objective == CONTRASTIVE for method in methods):
        rule = training.pretraining
        found["Contrastive training"] = (
            f"{rule.epochs} epochs of NT-Xent on the split's training items without their labels, first view plain, "
            f"second augmented, projection head {rule.projection}-{rule.projection}; then, on the frozen hidden "
            f"layers, {training.epochs} epochs of a classifier of {list(rule.classifier_hidden)} hidden units and of "
            "a linear probe"
        )
    layers = [params.get("layer") for params in methods.values()]
    if any(given == "auto" or (isinstance(given, tuple) and "auto" in given) for given in layers):
        found["Layer auto"] = (
            "in each trial that whose linear CKA with the next layer is highest after a training without augmentation"
        )
    return found


def _early_stopping(training: Training) -> str:
    rule = training.early_stopping
    if rule is None:
        return "none"
    return (
        f"{rule.fraction:.0%} of the training items held out; a trial stops after {rule.patience} evaluations without "
        "a lower loss on them, and keeps the weights of the lowest"
    )


def _unknown_classes(spec: StudySpec) -> str:
    sources = ["those without a training item, by accident of the split"]
    if spec.splits.unknown_classes:
        sources.append(f"named ones, never trained on ({', '.join(spec.splits.unknown_classes)})")
    if spec.splits.unknown_class_fraction:
        sources.append(f"{spec.splits.unknown_class_fraction:.0%} of the classes, withheld at random for each split")
    return "; ".join(sources)
