"""Write to MLflow, from the records, what is missing there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from analysis.report.write import write_report
from analysis.results.aggregate import StudyResults
from analysis.results.deadline import within
from analysis.results.load import load_study
from analysis.results.mlflow_schema import UNFINISHED, study_key
from study.config.schema import StudySpec
from study.errors import SlowTrackerError
from study.state.description import refuse_foreign
from study.state.lock import only_run
from study.state.provenance import provenance
from study.state.results import outcome
from study.tracking.mlflow import StudyFacts, Tracker
from trainables.records.description import DESCRIPTION, StudyDescription, read_description
from trainables.records.failures import FAILED, STOPPED
from trainables.records.parquet import own_records

_T = TypeVar("_T")

# The longest wait of a run for a server to begin or to end the study's run; `sync` waits longer.
_LIMIT_S = 100.0


def make_tracker(spec: StudySpec, description: StudyDescription) -> Tracker:
    """Return the tracker of a study.

    Raises:
        TrackingError: The server cannot be reached.
    """
    about = StudyFacts(
        name=spec.name,
        key=study_key(spec.name, description.digests["settings"]),
        params={**spec.deciding_settings(), "splits.n_splits": spec.splits.n_splits, **description.digests},
        made_by=provenance(spec, description),
        table=spec.data.table,
        n_items=description.data.n_items,
        data_digest=description.data.digest,
        description=spec.root / DESCRIPTION,
        method_code=description.method_code,
    )
    experiment = spec.tracking.experiment or spec.name
    return Tracker(spec.tracking_uri, experiment, about)


def _in_time(limit_s: float, work: Callable[[], _T]) -> _T:
    try:
        return within(limit_s, work)
    except TimeoutError:
        raise SlowTrackerError(limit_s) from None


def attach(spec: StudySpec, folders: Mapping[str, Path], results: StudyResults | None = None) -> str:
    """Attach folders, by the name they get, to the study's MLflow run, end it, and return its id.

    The study's results are read from its directory if `results` is None.

    Raises:
        RunError: A run works in the directory; it attaches its own report.
        TrackingError: The server cannot be reached.
        DescriptionError: No study was run in the directory.
    """
    description = read_description(spec.root)
    with only_run(spec.root):
        tracker = _in_time(_LIMIT_S, lambda: make_tracker(spec, description))
        end_run(tracker, spec, results or load_study(spec.root), folders)
        return tracker.study_run


def sync(spec: StudySpec, limit_s: float | None = None) -> int:
    """Write the trials and the report that are missing on the server, and return the number of trials written.

    Args:
        spec: The study.
        limit_s: The longest time to wait for the server; None for five minutes, and five seconds more for each trial.

    Raises:
        RunError: A run works in the directory; it writes to MLflow itself.
        TrackingError: The server cannot be reached.
        DescriptionError: No study was run in the directory.
        RecordError: A record is damaged or of another study.
        ReportError: The study has no finished trial.
    """
    description = read_description(spec.root)
    with only_run(spec.root):
        records, foreign = own_records(spec.records, description.mismatch)
        refuse_foreign(foreign)
        limit_s = limit_s or 3 * _LIMIT_S + 5 * len(records)
        tracker = _in_time(limit_s, lambda: make_tracker(spec, description))
        n_written = _in_time(limit_s, lambda: tracker.write(records))
        results, report = load_study(spec.root), spec.report_page.parent
        if not spec.report_page.exists():
            write_report(spec.root, results=results)
        end_run(tracker, spec, results, {"report": report}, limit_s)
        return n_written


def end_run(
    tracker: Tracker,
    spec: StudySpec,
    results: StudyResults,
    folders: Mapping[str, Path],
    limit_s: float = _LIMIT_S,
) -> None:
    """End the study's MLflow run: attach its results, why planned trials are missing, and `folders` by their names.

    The server may take `limit_s` for it.

    Raises:
        TrackingError: The server cannot be reached.
    """
    unfinished = {f"{UNFINISHED}/{name}": spec.records / name for name in (FAILED, STOPPED)}
    attached = {**folders, **unfinished}
    _in_time(limit_s, lambda: tracker.finish(outcome(results), attached))
