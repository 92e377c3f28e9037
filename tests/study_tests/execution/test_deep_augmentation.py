"""A study of both objectives, end to end: run, resumed, tracked, pruned, verified, exported."""

import os
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from mlflow.tracking import MlflowClient
from rich.console import Console

from analysis.results.mlflow_schema import KEY_TAG
from study.cli.app import study
from study.config.load import load_spec
from study.execution.progress import Progress
from study.execution.run import run_study
from study.model.retrain import find_trial, open_study
from tests.study_tests.conftest import MakeStudy, copy_encoded, settings
from trainables.records.description import read_description
from trainables.records.failures import read_stops
from trainables.records.parquet import read_records

TRAINING = {
    "hidden": [16, 16],
    "residual": True,
    "pretraining": {"epochs": 4, "projection": 8, "classifier_hidden": [8]},
}


METHODS = {
    "control": {},
    "deep_dropout": {"layer": "auto"},
    "contrastive_control": {},
    "contrastive_deep_pca": {"layer": [0, "auto"], "components": 4, "stop_gradient": [0, 1]},
}

AUTO = "contrastive_deep_pca(components=4, layer=auto, stop_gradient=1, temperature=0.1)"


@pytest.fixture(scope="module")
def finished(encoded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a finished study; its directory is not to be written to."""
    folder = tmp_path_factory.mktemp("deep")
    copy_encoded(encoded, folder)
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(settings(training=TRAINING, search={"methods": METHODS})))
    with Progress(Console(quiet=True)) as progress:
        result = run_study(load_spec(path), progress)
    assert (result.n_trained, result.failures) == (6 * 2, ())
    return path


def test_both_objectives_are_recorded_and_tracked(finished: Path) -> None:
    root = finished.parent / "out"
    records = {record.config: record for record in read_records(root / "records")}
    assert len({config.candidate for config in records}) == 6, "at the input, both stop-gradients are one candidate"
    for config, record in records.items():
        contrastive = config.candidate.objective == "contrastive"
        assert record.metrics["epochs"] == (10 if contrastive else 6)
        assert record.curves.epoch.tolist() == ([3, 4, 7, 10] if contrastive else [3, 6])
        assert np.isfinite(record.curves.epoch_cka).all(1).tolist() == [True] * 2 + [False] * (2 * contrastive)
        assert record.curves.epoch_cka.shape[1] == 3
        assert ("probe_auc_weighted" in record.metrics) == contrastive
        assert ("layer_targeted" in record.metrics) == ("layer=auto" in str(config))


def test_similarity_is_tracked_as_a_curve_for_controls(finished: Path) -> None:
    root = finished.parent / "out"
    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    experiments = [entry.experiment_id for entry in client.search_experiments()]
    found = {run.data.tags.get(KEY_TAG, "").split("/", 2)[-1]: run for run in client.search_runs(experiments)}
    for record in read_records(root / "records"):
        run = found[record.config.key]
        assert run.data.metrics["cka_1"] == pytest.approx(record.metrics["cka_1"])
        history = client.get_metric_history(run.info.run_id, "cka_1")
        steps = sorted(point.step for point in history)
        if record.config.candidate.augmentation == "control":
            assert steps == ([3, 4] if record.config.candidate.objective == "contrastive" else [3, 6])
        else:
            assert steps == [0]  # its last value alone


def test_a_finished_study_has_nothing_to_do(finished: Path) -> None:
    with Progress(Console(quiet=True)) as progress:
        again = run_study(load_spec(finished), progress)
    assert (again.n_trained, again.n_recorded) == (0, 12)


def test_the_layer_auto_is_read_back(finished: Path) -> None:
    done = CliRunner().invoke(study, ["verify", AUTO, "--split", "1", "-c", str(finished)])
    assert done.exit_code == 0, done.output
    assert "agrees, to the bit: 0 of 144 items are judged differently" in " ".join(done.output.split())
    assert "layer_targeted" in done.output


@pytest.mark.parametrize("cell", [AUTO, "control"])
def test_an_exported_model_says_what_the_trial_said(finished: Path, tmp_path: Path, cell: str) -> None:
    """Trunk and classifier as one network, residual layers among them."""
    asked = ["export", cell, "--split", "0", "-c", str(finished), "-o", str(tmp_path / "model")]
    done = CliRunner().invoke(study, asked)
    assert done.exit_code == 0, done.output
    root = finished.parent / "out"
    record = find_trial(root, cell, None)
    assert record.items is not None
    said = mlflow.pyfunc.load_model(os.fspath(tmp_path / "model")).predict(
        open_study(root).embeddings.matrix[record.items.item]
    )
    assert said["confidence"].to_numpy() == pytest.approx(record.items.confidence, abs=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_nothing_is_stopped_while_it_is_pretrained(make_study: MakeStudy, tmp_path: Path) -> None:
    """There is nothing to judge by before the classifier trains; after that, noise of ten deviations is found bad."""
    path = make_study(
        splits={"design": "reverse_folds", "train_fraction": 0.5, "n_splits": 2},
        training={
            **TRAINING, "epochs": 40, "evaluate_every_epochs": 10, "batch_size": 8,
            "learning_rate": {"low": 3e-3, "high": 1e-2},
            "pretraining": {"epochs": 20, "projection": 8, "classifier_hidden": [8]},
        },
        search={
            "selection": "nested",
            "n_inner_splits": 2,
            "batch_size": 2,
            "pruning": {"asha": {"grace_epochs": 10, "reduction_factor": 2}},
            "methods": {"contrastive_gaussian_noise": {"sigma": [0.01, 0.1, 9.0, 10.0]}},
        },
    )  # fmt: skip
    with Progress(Console(quiet=True)) as progress:
        result = run_study(load_spec(path), progress)
    assert result.failures == ()
    stops = read_stops(tmp_path / "out/records", read_description(tmp_path / "out").digests["settings"], {})
    assert sorted(dict(stop.candidate.params)["sigma"] for stop in stops) == [9, 9, 10, 10], "on each of two splits"
    for stop in stops:
        assert min(epoch for epoch, _ in stop.evaluations) == 30
        assert stop.n_epochs_planned == 2 * 60
        assert all(value == value for _, value in stop.evaluations)
