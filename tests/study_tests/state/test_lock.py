"""Tests of the lock of a study's directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedding_jobs.errors import StoreError
from embedding_jobs.files import hold_lock
from study.errors import RunError
from study.state.lock import Activity, only_run, read_activity, write_activity


def test_the_error_of_another_lock_inside_a_run_is_not_reported_as_another_run(tmp_path: Path) -> None:
    store = tmp_path / "store.lock"
    held = StoreError("Another run writes to the store.")
    with (
        hold_lock(store, held),
        pytest.raises(StoreError, match="writes to the store"),
        only_run(tmp_path),
        hold_lock(store, held),
    ):
        pass
    with only_run(tmp_path), pytest.raises(RunError, match="Another `study run` works"), only_run(tmp_path):
        pass


def test_an_activity_that_began_at_no_time_is_one_that_has_just_begun(tmp_path: Path) -> None:
    with only_run(tmp_path):
        write_activity(tmp_path, Activity("test", 1.0, 3))
        assert read_activity(tmp_path) == Activity("test", 1.0, 3)
        for since in ("Infinity", "NaN", "1" + "0" * 400):
            (tmp_path / "running.json").write_text(f'{{"doing": "test", "since_s": {since}}}')
            found = read_activity(tmp_path)
            assert found is not None
            assert found.doing == "starting"
