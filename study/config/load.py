"""Read a study file and check it as a whole: every problem at once, each with its key and the remedy.

Imports nothing heavy: no torch, ray, optuna or mlflow.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from embedding_jobs.errors import SourceError
from study.config.addresses import secret_problems
from study.config.assignments import assigned, with_sources
from study.config.cluster_rules import cluster_problems
from study.config.encoder_rules import encoder_problems
from study.config.method_rules import nearest, pruning_problems, search_problems
from study.config.paths import (
    directory_problem,
    place_problems,
    resolved,
    resolved_data,
    resolved_encoders,
    shown,
)
from study.config.schema import Data, Encoders, Objective, Resources, Search, Section, Splits, StudySpec
from study.config.table_rules import item_problems, named_columns, table_problems
from study.config.yaml_file import read_yaml
from study.errors import SpecError
from trainables.records.failures import EVALUATED
from trainables.records.types import Design
from trainables.sampling.splits import SplitRules
from trainables.training.settings import TrainingSettings


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and (issubclass(kind, Section) or is_dataclass(kind))


_SECTIONS: dict[str, TypeAdapter[Any]] = {
    name: TypeAdapter(kind) for name, kind in get_type_hints(StudySpec).items() if _is_section(kind)
}

_FOLDS_TOLERANCE = 0.003  # 0.333 and 0.667 are three folds, 0.33 and 0.67 are not

# What a value must be, by the type of pydantic's error, whose context fills the braces.
_RULES = {
    "greater_than": "above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "below {lt:g}",
    "less_than_equal": "at most {le:g}",
    "literal_error": "{expected}",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("model_type", "dataclass_type", "dict_type"), "a mapping of keys to values"),
    "string_type": "a text",
    "tuple_type": "a list, such as [a, b]",
    "too_short": "a mapping with at least {min_length} entry",
    "string_pattern_mismatch": "letters, digits, dots, dashes or underscores, a letter or digit first",
}


def load_spec(
    path: str | Path, *, assignments: Sequence[str] = (), remote: bool = False, encodes: bool = True
) -> StudySpec:
    """Read and check a study file, including the table's columns and size.

    Args:
        path: The file.
        assignments: Values in place of the file's, each as `training.epochs=24`: a key, and a value in YAML.
        remote: Whether the study is to run on other machines. Its table and models are then not looked for on this one,
            and no path may be relative.
        encodes: Whether the table and the models are used, and therefore looked for.

    Raises:
        SpecError: With every problem that was found.
    """
    path = Path(path)
    try:
        raw = read_yaml(path)
    except FileNotFoundError:
        raise SpecError(str(path), ["there is no such file; `study init` writes one"]) from None
    except (OSError, ValueError) as error:
        raise SpecError(str(path), [f"it cannot be read as YAML: {error}"]) from None
    if not isinstance(raw, dict):
        raise SpecError(str(path), ["it must be a mapping of sections; `study init` writes one"])
    try:
        raw = assigned(raw, assignments)
    except ValueError as error:
        raise SpecError(str(path), [str(error)]) from None
    try:
        return check_spec(raw, path, remote=remote, encodes=encodes)
    except SpecError as error:
        raise SpecError(str(path), list(with_sources(error.problems, assignments))) from None


def check_spec(
    raw: Mapping[str, Any], path: str | Path = "study.yaml", *, remote: bool = False, encodes: bool = True
) -> StudySpec:
    """Check the contents of a study file, as `load_spec` does.

    Relative paths in it are relative to the folder of `path`.

    Raises:
        SpecError: With every problem that was found.
    """
    path = Path(path)
    problems: list[str] = []
    sections: dict[str, Any] = {}
    invalid = set()
    for name, kind in _SECTIONS.items():
        if name in raw:
            # Each section by itself, so that a problem in one does not hide those in the others.
            try:
                sections[name] = kind.validate_python(raw[name])
            except ValidationError as error:
                invalid.add(name)
                problems += _problems(error, (name,))
                with suppress(ValidationError):  # its valid values are still checked against the other sections
                    sections[name] = kind.validate_python(_without(raw[name], error))
    top = {name: value for name, value in raw.items() if name not in _SECTIONS}
    secret = list(secret_problems({"directory": top.get("directory"), **sections}))
    impossible = dict(place_problems(sections, top.get("directory")))
    problems += impossible.values()
    for name in impossible:  # nothing can be looked for there
        invalid.add(name)
        sections.pop(name, None)
    if remote:
        problems += cluster_problems(raw, sections)
    elif "data" in sections:
        sections["data"] = resolved_data(sections["data"], path.parent)
    if "encoders" in sections and not remote:
        sections["encoders"] = resolved_encoders(sections["encoders"], path.parent)
    top |= sections
    if isinstance(top.get("directory"), str) and "directory" not in impossible:
        if "://" in top["directory"]:
            problems.append(
                f"`directory` must be a path of a file system, got {top['directory']!r}; mount the storage on every "
                "node and give its path"
            )
        elif not remote:
            top["directory"] = resolved(top["directory"], path.parent)
            if problem := directory_problem(top["directory"]):
                problems.append(problem)
    spec = None
    try:
        spec = StudySpec.model_validate(top)
    except ValidationError as error:
        problems += _problems(error, (), known=invalid - set(sections))
    if secret:
        raise SpecError(str(path), secret)  # alone, since the other problems might repeat the address
    problems += _cross_problems(sections, invalid, looks=encodes and not remote)
    if problems or spec is None:
        raise SpecError(str(path), list(dict.fromkeys(problems)))
    return spec


def _without(raw: Any, error: ValidationError) -> Any:
    """Return a section without its invalid values."""
    kept = copy.deepcopy(raw)
    for item in error.errors():
        if not item["loc"]:
            return {}  # not a mapping
        place, *rest = item["loc"]
        inner = kept
        while rest and isinstance(inner, dict) and isinstance(inner.get(place), dict):
            inner = inner[place]
            place, *rest = rest
        if isinstance(inner, dict):
            inner.pop(place, None)
    return kept


def _problems(error: ValidationError, prefix: tuple[str, ...], known: Set[str] = frozenset()) -> Iterator[str]:
    """Yield each problem that pydantic found, in the words of a study file.

    Args:
        error: Its error.
        prefix: Key of the section that it checked.
        known: Sections whose problems are listed already, and which are therefore not missing.
    """
    named = set()
    # A misspelt section is not missing, too.
    extra = [str(item["loc"][-1]) for item in error.errors() if item["type"] == "extra_forbidden" and not prefix]
    known = known | {name for name in _SECTIONS if any(nearest(one, [name]) for one in extra)}
    for item in error.errors(include_url=False):
        location, kind, context = [*prefix, *map(str, item["loc"])], item["type"], item.get("ctx", {})
        # A value of a method may be a number, a list or a range, and each of the three complains: name the place once.
        of_method = "methods" in location and len(location) > 3
        key = ".".join(location[:4] if of_method else location)
        if of_method:
            if key not in named:
                yield f"`{key}` must be a number, a list of numbers or {{low, high, log}}, got {shown(item['input'])}"
            named.add(key)
        elif kind in ("extra_forbidden", "unexpected_keyword_argument"):
            keys = _known_keys(location[:-1])
            yield f"`{key}` is not a key{nearest(location[-1], keys)}; the keys there are {', '.join(keys)}"
        elif kind == "missing":
            if key not in known:
                yield f"`{key}` is missing; give it a value"
        else:
            rule = _RULES[kind].format(**context) if kind in _RULES else item["msg"].removeprefix("Input should be ")
            rule = str(context["error"]) if kind == "value_error" else f"must be {rule}"
            yield f"`{key}` {rule}, got {shown(item['input'])}"


def _known_keys(location: list[str]) -> list[str]:
    kind: Any = StudySpec
    for part in location:
        kind = get_args(kind)[-1] if get_origin(kind) is dict else get_type_hints(kind)[part]
        if get_origin(kind) is not dict:
            kind = next(filter(_is_section, (kind, *get_args(kind))))
    return [field.name for field in fields(kind)] if is_dataclass(kind) else list(kind.model_fields)


def _cross_problems(sections: Mapping[str, Any], invalid: set[str], *, looks: bool) -> Iterator[str]:
    """Yield each problem between sections that are valid by themselves.

    Args:
        sections: The sections; of an invalid one, its valid values.
        invalid: Names of the invalid sections.
        looks: Whether to look at the table and the models that the file names.
    """
    data: Data | None = sections.get("data")
    search: Search | None = sections.get("search")
    splits, training = sections.get("splits", Splits()), sections.get("training", TrainingSettings())
    of_columns = list(_column_problems(data)) if data is not None and "data" not in invalid else []
    of_splits = list(_split_problems(data, splits)) if not invalid & {"splits", "search", "resources"} else []
    yield from (*of_columns, *of_splits)
    if data is not None and "data" not in invalid and "encoders" not in invalid:
        yield from _encoded_problems(data, sections.get("encoders", Encoders()))
    if data is not None and looks:
        of_table = list(table_problems(data))
        yield from of_table
        if not of_columns and not invalid & {"data", "splits"}:
            sizes = "training" not in invalid and not of_splits  # else they would be those of other splits
            known = search if "search" not in invalid else None
            try:
                yield from item_problems(data, splits, known, training if sizes else None)
            except SourceError as error:
                yield from () if of_table else (f"`data.table`: {error}",)
    if search is not None and not invalid & {"training", "search"}:
        yield from pruning_problems(search, training)
    if not invalid & {"splits", "search", "resources"}:
        yield from _early_stopping_problems(
            search, sections.get("objective", Objective()), sections.get("resources", Resources())
        )
    if "encoders" in sections and looks:
        yield from encoder_problems(sections["encoders"])
    if search is not None:
        yield from search_problems(search, training)
    rate = training.learning_rate
    if rate.low > rate.high:
        yield f"`training.learning_rate.low` must not exceed `high` ({rate.high:g}), got {rate.low:g}"


def _column_problems(data: Data) -> Iterator[str]:
    if not data.columns:
        yield "`data.text`, `data.image` and `data.vectors` are all empty; name at least one column"
    columns = [column for key, column in named_columns(data).items() if column and key != "group"]
    columns += [] if isinstance(data.vectors, tuple) else data.vectors
    for twice in sorted({column for column in columns if columns.count(column) > 1}):
        yield f"`data` uses the column `{twice}` twice; each of id, label, text, image, vectors and split needs its own"
    for column in data.columns:
        if "--" in column or "/" in column:  # the store has a folder of this name
            yield f"`data` names the column `{column}`; a column of texts, images or vectors must not hold '--' or '/'"
    for key in ("id", "label", "split"):
        if data.group is not None and data.group == getattr(data, key):
            yield (
                f"`data.group` names the column `{data.group}`, as `data.{key}` does; name a column whose equal values "
                "no split may divide, such as a customer"
            )


def _encoded_problems(data: Data, encoders: Encoders) -> Iterator[str]:
    for column in set(encoders.custom) - {*data.text, data.image}:
        yield f"`encoders.custom.{column}` has nothing to encode; name the column in `data.text` or `data.image`"
    images = (data.image,) if data.image else ()
    for kind, encoded in (("text", data.text), ("image", images)):
        used = [column for column in encoded if column not in encoders.custom]
        if used and getattr(encoders, kind) is None:
            yield f"`encoders.{kind}` is missing, and `data.{kind}` names a column; give its model"
        if data.columns and not used and getattr(encoders, kind) is not None:
            yield f"`encoders.{kind}` has nothing to encode; name a column in `data.{kind}`, or leave it out"


def _split_problems(data: Data | None, splits: Splits) -> Iterator[str]:
    official, fraction = splits.design is Design.OFFICIAL, splits.train_fraction
    if official and fraction is not None:
        yield (
            "`splits.train_fraction` must be left out with the design official, whose training items the column "
            f"`data.split` names, got {fraction:g}"
        )
    elif splits.design in (Design.REVERSE_FOLDS, Design.FOLDS) and fraction is not None:
        reverse = splits.design is Design.REVERSE_FOLDS
        n_folds = SplitRules(splits.design, fraction).n_folds
        exact = 1 / (fraction if reverse else 1 - fraction)
        if abs(n_folds / exact - 1) > _FOLDS_TOLERANCE:
            near = dict.fromkeys(max(2, round_to(exact)) for round_to in (math.floor, math.ceil))
            listed = " or ".join(f"{round(1 / k if reverse else 1 - 1 / k, 4):g} ({k} folds)" for k in near)
            rule = "1/k with the design reverse_folds" if reverse else "(k - 1)/k with the design folds"
            yield (
                f"`splits.train_fraction` must be {rule}, for k folds, got {fraction:g}; the nearest: {listed}; the "
                "design random takes any fraction"
            )
        elif splits.n_splits > n_folds:
            enough = round(1 / splits.n_splits if reverse else 1 - 1 / splits.n_splits, 4)
            yield (
                f"`splits.n_splits` must be at most the number of folds, {n_folds} with `splits.train_fraction` "
                f"{fraction:g}, got {splits.n_splits}; set `splits.train_fraction` to {enough:g}, or the design to "
                "random, which has any number of splits"
            )
    if data is not None and official and data.split is None:
        yield (
            "`data.split` is missing, and `splits.design` official needs it; name the column that says train, "
            "validation or test, or choose another design"
        )
    if data is not None and not official and data.split is not None:
        yield (
            f"`data.split` names the column `{data.split}`, which the design {splits.design.value} does not use; set "
            "`splits.design` to official, or leave `data.split` out"
        )


def _early_stopping_problems(search: Search | None, objective: Objective, resources: Resources) -> Iterator[str]:
    if search is None or not search.pruning.is_on:
        return
    if search.selection == "reported":
        yield (
            "`search.pruning` needs inner splits, since `search.selection` reported reports every candidate; leave it "
            "out, or set `search.selection` to nested"
        )
    asha, racing = search.pruning.asha, search.pruning.racing
    if asha is not None and resources.lanes_per_pack is not None and resources.lanes_per_pack < search.n_inner_splits:
        yield (
            "`search.pruning.asha` compares means over inner splits that are trained together, which "
            f"`resources.lanes_per_pack` ({resources.lanes_per_pack}) separates; leave one of the two out"
        )
    if asha is not None and objective.metric not in EVALUATED:
        yield (
            f"`objective.metric` must be one of {', '.join(EVALUATED)} with `search.pruning.asha`, which judges by "
            f"evaluations during a training, got {objective.metric}"
        )
    if racing is not None and racing.splits_at_once >= search.n_inner_splits:
        yield (
            "`search.pruning.racing.splits_at_once` must be below `search.n_inner_splits` "
            f"({search.n_inner_splits}), or no inner split is saved, got {racing.splits_at_once}"
        )
