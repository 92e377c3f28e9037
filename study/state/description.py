"""Make a study's description from its study file, and refuse to mix records of different settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis.format import plural
from embedding_jobs.encoders.config import column_name
from embedding_jobs.sources.items import SourceFacts
from embedding_jobs.store.manifests import comparable
from embedding_jobs.store.store import Embeddings, Store
from study.config.schema import StudySpec, digest
from study.search.space import asked, is_per_split, known_candidates
from trainables.methods.registry import method_code
from trainables.records.description import (
    DESCRIPTION,
    DataDescription,
    DescriptionError,
    Proposed,
    StudyDescription,
    StudyPlan,
    made_otherwise,
    method_of,
    read_description,
    search_name,
)
from trainables.records.failures import read_failures, read_stops
from trainables.records.parquet import read_packs
from trainables.records.types import CONTRASTIVE, Candidate, Design, RecordError, SplitId
from trainables.sampling.splits import INNER_TRAIN_FRACTION

# What to do about records of another study.
MOVE_AWAY = "Move such files out of the folder, to where their study is; then `study run` trains what is missing here."

# What a description says of a column of vectors, as far as a run compares it.
_MADE_BY = {"fingerprint", "ids_digest", "input_digest"}


def description_before(spec: StudySpec) -> StudyDescription | None:
    """Return what earlier runs wrote into the study's directory; None before the first run.

    Raises:
        DescriptionError: The file is not valid.
    """
    return read_description(spec.root) if (spec.root / DESCRIPTION).exists() else None


def describe(spec: StudySpec, embeddings: Embeddings, class_names: Sequence[str]) -> StudyDescription:
    """Describe a study that is about to run.

    Its resources stay those that its records were made with: once it trains, `on_resources` is its description.

    Args:
        spec: The study.
        embeddings: Its embeddings.
        class_names: Every label, sorted.
    """
    plan, deciding, settings = plan_of(spec, description_before(spec)), spec.deciding_settings(), _settings(spec)
    if (recorded := _recorded(spec)) is not None:
        settings["resources"] = recorded.settings.get("resources", settings["resources"])
    items = Store(spec.store).items()
    contents = {"ids": items.ids_digest, **items.metadata_digests, "inputs": items.input_digests}
    return StudyDescription(
        methods=plan.methods,
        splits=plan.splits,
        n_candidates=plan.n_candidates,
        candidates=plan.candidates,
        name=spec.name,
        preset=spec.preset,
        design=spec.splits.design,
        selection=spec.search.selection,
        objective=spec.objective.metric,
        threshold=spec.objective.threshold,
        settings=settings,
        choices=_choices(spec),
        data=DataDescription(
            digest=digest(contents),
            metadata_digests=items.metadata_digests,
            n_items=len(embeddings.ids),
            n_classes=len(class_names),
            class_names=tuple(class_names),
            n_features=int(embeddings.matrix.shape[1]),
            embeddings=embeddings.provenance["columns"],
            notes=tuple(_notes(spec, len(embeddings.ids))),
        ),
        deciding_settings=deciding,
        digests=_digests(deciding, embeddings.digest),
        method_code={name: method_code(name) for name in plan.methods},
    )


def on_resources(spec: StudySpec, description: StudyDescription) -> StudyDescription:
    """Return the description of a study that trains on the resources of its study file."""
    return replace(description, settings={**description.settings, "resources": _settings(spec)["resources"]})


def _settings(spec: StudySpec) -> dict[str, Any]:
    return spec.model_dump(mode="json")


def plan_of(spec: StudySpec, before: StudyPlan | None) -> StudyPlan:
    """Return what a study file asks for now, with the candidates that are known: listed, or proposed before.

    Proposals of earlier runs, in `before`, are kept where the study file asks for the same.
    """
    search, counts, known = spec.search, {}, {}
    for method in search.methods:
        listed = known_candidates(search, method)
        counts[method] = search.n_candidates if listed is None else len(listed)
        for name in search_names(spec, method):
            earlier = before.candidates.get(name) if before is not None else None
            known[name] = listed or []
            if listed is None and before is not None and earlier is not None and earlier.asked == asked(search, method):
                known[name] = before.proposed[name][: search.n_candidates]
    return StudyPlan(
        methods=tuple(search.methods),
        splits={phase: spec.planned_splits(phase) for phase in spec.phases},
        n_candidates=counts,
        candidates=proposed(spec, known),
    )


def search_names(spec: StudySpec, method: str) -> dict[str, tuple[SplitId, ...]]:
    """Return the searches of a method by name, with the splits that each of their candidates is trained on first.

    It is one search for all splits, or one for each where earlier scores decide what is tried next.
    """
    found: dict[str, tuple[SplitId, ...]] = {}
    for split in spec.planned_splits(spec.phases[0]):
        name = search_name(method, split.seed if is_per_split(spec.search, method) else None)
        found[name] = (*found.get(name, ()), split)
    return found


def proposed(spec: StudySpec, candidates: Mapping[str, Sequence[Candidate]]) -> dict[str, Proposed]:
    """Return the proposed candidates of each search in the form of the description."""
    return {
        name: Proposed(asked(spec.search, method_of(name)), tuple(dict(one.params) for one in proposals))
        for name, proposals in candidates.items()
    }


def plans_differ(one: StudyPlan, other: StudyPlan) -> bool:
    """Return whether two plans have other splits, methods or candidates."""

    def compared(plan: StudyPlan) -> tuple[Any, ...]:
        return plan.methods, plan.splits, plan.n_candidates, {name: one.asked for name, one in plan.candidates.items()}

    return compared(one) != compared(other)


def refuse_changes(spec: StudySpec, description: StudyDescription | None = None) -> None:
    """Refuse to go on in a directory whose records were made with other settings or data.

    `description` is that of the study as it would run now; None compares the study file alone.

    Raises:
        DescriptionError: With the settings that differ.
    """
    before = _recorded(spec)
    if before is None:
        return
    old, new = dict(before.deciding_settings), spec.deciding_settings()
    if description is not None:
        old["embeddings"], new["embeddings"] = before.digests["embeddings"], description.digests["embeddings"]
        if before.digests != description.digests and old == new:
            old["digests"], new["digests"] = dict(before.digests), dict(description.digests)
    differing = [f"{key}: {old.get(key)} -> {new.get(key)}" for key in new | old if old.get(key) != new.get(key)]
    if differing:
        raise _other(spec, differing)


def refuse_other_data(
    spec: StudySpec, facts: SourceFacts, fingerprints: Mapping[str, Mapping[str, Any]] | None = None
) -> None:
    """Refuse to go on in a directory whose records were made from other data, before anything there changes.

    Args:
        spec: The study.
        facts: What its table has now.
        fingerprints: Everything that a vector of each column depends on now; None compares the table alone.

    Raises:
        DescriptionError: With what differs.
    """
    before = _recorded(spec)
    if before is None:
        return
    differing = []
    for column, config in spec.column_encoders.items():
        name = column_name(column, config)
        old = before.data.embeddings.get(name)
        if old is not None and not (old.keys() >= _MADE_BY and isinstance(old["fingerprint"], Mapping)):
            raise DescriptionError(
                f"{spec.root / DESCRIPTION} is not valid: `data.embeddings.{name}` must have "
                f"{', '.join(sorted(_MADE_BY))}. Restore it, or give the study another `directory`."
            )
        made_of = comparable(dict(old["fingerprint"])) if old is not None else None
        if made_of is None or (fingerprints is not None and made_of != comparable(dict(fingerprints[column]))):
            differing.append(f"the encoder of `{column}`")
        if old is not None:
            if old["input_digest"] != facts.digest_of(column):
                differing.append(f"the values of `{column}`")
            if old["ids_digest"] != facts.ids_digest:
                differing.append(f"the ids, `{spec.data.id}`" if spec.data.id else "the number of rows")
    differing += [
        f"the {key}s, `{column}`"
        for key, column in spec.data.source.metadata.items()
        if before.data.metadata_digests.get(key) != facts.metadata_digests[key]
    ]
    if differing:
        raise _other(spec, list(dict.fromkeys(differing)))


def _recorded(spec: StudySpec) -> StudyDescription | None:
    """Return the description that the records were made by; None without records."""
    return description_before(spec) if any(spec.records.glob("*.parquet")) else None


def _other(spec: StudySpec, differing: Sequence[str]) -> DescriptionError:
    return DescriptionError(
        f"The records in {spec.records} were made with other settings or data ({'; '.join(differing)}). "
        "Give the study another `directory`, or undo the change, in the study file or by --set."
    )


def foreign_in_words(foreign: Mapping[Path, str]) -> list[str]:
    """Return a sentence for each record file that is not of a study; `foreign` has the reasons."""
    return [f"{path} is not of this study: it was {why}." for path, why in foreign.items()]


def refuse_foreign(foreign: Mapping[Path, str]) -> None:
    """Refuse to go on beside record files of another study, or of other settings; `foreign` has the reasons.

    Raises:
        RecordError: With the files.
    """
    if foreign:
        more = f" So are {len(foreign) - 3} more." if len(foreign) > 3 else ""
        raise RecordError(f"{' '.join(foreign_in_words(foreign)[:3])}{more} {MOVE_AWAY}")


def refuse_foreign_early(spec: StudySpec) -> None:
    """Refuse records, failures and stops of another study, as far as they show what they are of before encoding.

    Where no description says what the embeddings are, each record is taken at its word about them. Damaged records are
    left to the run, which sets them aside.

    Raises:
        RecordError: With the files.
    """
    before, foreign = description_before(spec), {}
    deciding, code = spec.deciding_settings(), {name: method_code(name) for name in spec.search.methods}
    for pack in read_packs(spec.records, damaged_too=False):
        made_from = before.digests["embeddings"] if before else pack.provenance.get("digest_embeddings", "missing")
        if why := made_otherwise(pack.provenance, _digests(deciding, made_from), code):
            foreign[pack.path] = why
    refuse_foreign(foreign)
    if before is not None:
        made_by = _digests(deciding, before.digests["embeddings"])["settings"], code
        read_failures(spec.records, *made_by)
        read_stops(spec.records, *made_by)


def _digests(deciding: Mapping[str, Any], embeddings: str) -> dict[str, str]:
    """Return the digests of a study's settings and of its embeddings, given that of the embeddings."""
    return {"settings": digest({**deciding, "embeddings": embeddings}), "embeddings": embeddings}


def _notes(spec: StudySpec, n_items: int) -> Iterator[str]:
    for column, n_empty in Store(spec.store).items().n_empty_texts.items():
        if n_empty:
            yield f"{n_empty} of {n_items} items have no {column}; an empty text was encoded for them."


def _choices(spec: StudySpec) -> dict[str, str]:
    """Return what the papers leave open and this study does, by short name."""
    training = spec.training
    found = {
        "Optimizer": f"AdamW, decoupled weight decay {training.weight_decay:g}",
        "Batch size": f"{training.batch_size} items; the last, incomplete batch of an epoch is left out",
        "Outputs": "the known classes of the split",
        "Loss": "binary cross-entropy, mean over batch and classes",
        "Inputs": "standardised with the training items' mean and deviation" if training.standardize else "as encoded",
        "Pairs": "first half of a randomly ordered batch with the second half; one lambda per pair",
        "Sampling": "every class equally likely, with replacement"
        if training.class_balanced
        else "every item once per epoch",
        "Early stopping": _early_stopping(spec),
        "Unknown classes": _unknown_classes(spec),
    }
    if training.precision != "float32":
        found["Matrix products"] = f"{training.precision} in training, float32 in evaluation"
    if training.residual:
        found["Hidden layers"] = "residual: the input is added to the output where the two are equally wide"
    if any(Candidate(method).objective == CONTRASTIVE for method in spec.search.methods):
        rule = training.pretraining
        found["Contrastive training"] = (
            f"{rule.epochs} epochs of NT-Xent on the split's training items without their labels, the first view plain "
            f"and the second augmented, projection head {rule.projection}-{rule.projection}; then {training.epochs} "
            f"epochs of a classifier with {list(rule.classifier_hidden)} hidden units, and of a linear probe, on the "
            "frozen hidden layers"
        )
    layers = [params.get("layer") for params in spec.search.methods.values()]
    if any(given == "auto" or (isinstance(given, tuple) and "auto" in given) for given in layers):
        found["Layer auto"] = (
            "in each trial, the layer with the highest linear CKA with the next one after a training without "
            "augmentation"
        )
    found["Evaluation"] = f"every {training.evaluate_every_epochs} epochs and at the end"
    found["Splits"] = _splits(spec)
    if spec.search.selection == "nested":
        found["Search"] = _search(spec)
    return found


def _splits(spec: StudySpec) -> str:
    splits = spec.splits
    text = {
        Design.REVERSE_FOLDS: "disjoint training folds, each tested on all other items",
        Design.RANDOM: "random training sets, each tested on all other items",
        Design.FOLDS: "disjoint test folds, each trained on all other items",
        Design.OFFICIAL: f"the training and test items of `{spec.data.split}`; splits differ by random draws only",
    }[splits.design]
    if splits.stratify:
        text += "; each part keeps the shares of the classes"
    return text + (f"; no `{spec.data.group}` is on both sides" if spec.data.group else "")


def _search(spec: StudySpec) -> str:
    search, pruning = spec.search, spec.search.pruning
    inner = plural(search.n_inner_splits, "inner split")
    text = (
        f"{inner} of each split's training items, which train on {INNER_TRAIN_FRACTION:.0%} of them and score "
        f"candidates on the others, or on the validation items of official splits; {search.inner_unknown_fraction:.0%} "
        'of the classes, at least one, are withheld there and play "none", also to choose threshold and temperature'
    )
    if pruning.asha is not None:
        figure, factor = spec.objective.metric, f"{pruning.asha.reduction_factor:g}"
        text += (
            f"; a candidate stops at {pruning.asha.grace_epochs} epochs, or {factor} times as many, and so on, if its "
            f"{figure} there is not among the best 1/{factor} of its method's earlier batches"
        )
    if pruning.racing is not None:
        text += (
            f"; a candidate that is worse than its method's best at confidence {pruning.racing.confidence:g} gets no "
            "further inner splits"
        )
    return text


def _early_stopping(spec: StudySpec) -> str:
    rule = spec.training.early_stopping
    if rule is None:
        return "none"
    return (
        f"{rule.fraction:.0%} of the training items held out; a trial stops after {rule.patience} evaluations without "
        "a lower loss on them, and keeps the weights of the lowest loss"
    )


def _unknown_classes(spec: StudySpec) -> str:
    sources = ["those that have no training item in the split by chance"]
    if spec.splits.unknown_classes:
        sources.append(f"named ones, never trained on ({', '.join(spec.splits.unknown_classes)})")
    if spec.splits.unknown_class_fraction:
        sources.append(f"{spec.splits.unknown_class_fraction:.0%} of the classes, withheld at random for each split")
    return "; ".join(sources)
