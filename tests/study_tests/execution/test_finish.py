"""Finishing a study: nothing that fails may keep trials from MLflow."""

from pathlib import Path

import pytest

from study.config.load import load_spec
from study.errors import TrackingError
from study.execution.finish import finish_study
from study.state.lock import only_run
from study.tracking.background import BackgroundTracker
from study.tracking.mlflow import Tracker
from tests.study_tests.conftest import MakeStudy
from trainables.records.description import DescriptionError


def test_the_tracker_is_closed_before_a_report_that_fails(make_study: MakeStudy) -> None:
    def connect() -> Tracker:
        raise TrackingError("no server")

    tracker = BackgroundTracker(connect, lambda: [], lambda text: None)
    with pytest.raises(DescriptionError):  # no study was run there, so there is nothing to report
        finish_study(load_spec(make_study()), tracker)
    assert not tracker._thread.is_alive()


def test_a_run_removes_only_its_own_unfinished_files(tmp_path: Path) -> None:
    own = tmp_path / f".running.json.{'0' * 32}.tmp"
    others = [tmp_path / f".importance.json.{'0' * 32}.tmp", tmp_path / ".notes.tmp", tmp_path / ".model.x.tmp"]
    for path in (own, *others[:2]):
        path.touch()
    others[2].mkdir()  # an export in the making is a folder
    with only_run(tmp_path):
        assert not own.exists()
        assert all(path.exists() for path in others)
