"""Finish a study: write the report of what is recorded, and end the study's MLflow run with it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from analysis.report.write import write_report
from analysis.results.aggregate import StudyResults
from analysis.results.load import ReportError, load_study
from study.config.schema import StudySpec
from study.errors import RunError, TrackingError
from study.execution.prepare import prepare
from study.search.importance import write_importances
from study.state.lock import read_activity
from study.state.results import StudyReport
from study.tracking.background import BackgroundTracker

if TYPE_CHECKING:
    from study.tracking.mlflow import Tracker


def finish_study(spec: StudySpec, tracker: BackgroundTracker | None = None, *, all_pairs: bool = False) -> StudyReport:
    """Write the importances and the report, attach the report to the study's MLflow run, and end that run.

    Records are loaded once. A study without a finished trial has no report.

    Args:
        spec: The study.
        tracker: The tracker of the run that has just trained the study; it is closed. None to finish a study apart from
            its runs; while a run works, MLflow is left to that run.
        all_pairs: Whether to compare every method with every other, not only where the paper asks.

    Raises:
        DescriptionError: No study was run in the directory.
        RecordError: A record file is damaged.
    """
    prepare()
    ended, tracking_problem = None, None
    if tracker is not None:
        try:
            ended = tracker.close()  # before anything that may fail, so that no trial waits in its queue
        except TrackingError as error:
            tracking_problem = str(error)
    results = load_study(spec.root)
    results = replace(results, importances=write_importances(spec, results))
    report, report_problem = None, None
    try:
        report = write_report(spec.root, results=results, all_pairs=all_pairs)
    except ReportError as error:
        report_problem = str(error)
    if tracking_problem is None:
        try:
            _end_run(spec, results, ended)
        except TrackingError as error:
            tracking_problem = str(error)
    return StudyReport(results, report, report_problem, tracking_problem)


def _end_run(spec: StudySpec, results: StudyResults, tracker: Tracker | None) -> None:
    from study.tracking.sync import attach, end_run  # imports MLflow

    folders = {"report": spec.report_page.parent}
    if tracker is not None:
        end_run(tracker, spec, results, folders)
    elif read_activity(spec.root) is None:
        with suppress(RunError):  # a run has just begun; it attaches its own report
            attach(spec, folders, results)
