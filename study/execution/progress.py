"""Show the progress of a study: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from analysis.format import duration, plural
from embedding_jobs.files import private_folder
from trainables.records.choice import figure_of, mean_score
from trainables.records.failures import Failure, Stop
from trainables.records.types import TrialConfig, TrialRecord, value_text

if TYPE_CHECKING:
    from embedding_jobs.pipeline.summary import ExtractionProgress
    from study.search.queue import CandidateSearch, PackQueue

_PLAIN_LINE_EVERY_S = 10  # where no terminal can show a live table


@contextmanager
def chatter_to(log: Path) -> Iterator[Console]:
    """Append everything that libraries print, also in native code, to a file, and yield a console for the user."""
    private_folder(log.parent)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with log.open("ab") as file, os.fdopen(os.dup(1), "w") as out:
        try:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            yield Console(file=out)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, descriptor in enumerate(saved, start=1):
                os.dup2(descriptor, number)
                os.close(descriptor)


class Progress:
    """The progress of one command, as a context manager.

    Args:
        console: Where to show the progress; a live table needs a terminal.
        quiet: Whether to show nothing.
    """

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self.console = console
        self._quiet = quiet
        self._live: Live | None = None
        self._phase = ""
        self._queue: PackQueue | None = None
        self._objective = ""
        self._n_planned = self._n_recorded = self._n_trained = self._n_failed = self._n_stopped = 0
        self._n_trials: Counter[str] = Counter()
        self._started_s = time.monotonic()
        self._last_line_s = 0.0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.end_embedding()

    def say(self, text: str) -> None:
        """Print a line, above the live table if there is one."""
        if not self._quiet:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def embedding(self, state: ExtractionProgress) -> None:
        """Show the progress of the extraction."""
        rate = f", {state.inputs_per_s:,.0f}/s" if state.inputs_per_s else ""
        done = f"{state.n_inputs_done:,}/{state.n_inputs:,} distinct inputs{rate}"
        self._show(Text(f"{state.column}: {state.n_shards_done}/{state.n_shards} shards, {done}"))

    def start_phase(self, phase: str, queue: PackQueue, n_planned: int, n_stopped: int, objective: str) -> None:
        """Show the table of a phase from now on.

        `n_planned` counts all trials of the phase, `n_stopped` those that early stopping has already saved.
        """
        self.end_embedding()
        self._phase, self._queue, self._n_planned, self._objective = phase, queue, n_planned, objective
        self._n_recorded = self._n_trained = self._n_failed = 0
        self._n_stopped = n_stopped
        self._n_trials.clear()
        self._started_s = time.monotonic()

    def recorded(self, trials: Iterable[TrialConfig]) -> None:
        """Count the trials that were recorded before this run."""
        for trial in trials:
            self._n_recorded += 1
            self._n_trials[trial.candidate.method] += 1

    def trained(self, records: list[TrialRecord]) -> None:
        """Show a trained pack."""
        self._n_trained += len(records)
        scores = [record.metrics[self._objective] for record in records]
        self._n_trials[records[0].config.candidate.method] += len(records)
        if self.console.is_terminal:
            self._show(self._table())
            return
        self.say(
            f"{self._n_recorded + self._n_trained}/{self._n_planned} trials  {records[0].config.candidate}  "
            f"{self._objective} {sum(scores) / len(scores):.4f} over {plural(len(scores), 'split')}  "
            f"{records[0].duration_s:.1f} s of training each  {self._left()}"
        )

    def failed(self, failures: Iterable[Failure]) -> None:
        """Show packs that failed for good."""
        for failure in failures:
            self._n_failed += len(failure.splits)
            self.say(f"failed: {failure}")

    def stopped(self, stops: Iterable[Stop]) -> None:
        """Show candidates that early stopping ended."""
        for stop in stops:
            self._n_stopped += len(stop.splits)
            self.say(f"stopped by {stop.rule}: {stop.candidate} at {stop.share:.0%} of its training")

    def end_phase(self) -> None:
        """Keep the last table on the screen."""
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
        self.end_embedding()

    def end_embedding(self) -> None:
        """Keep the last line of the extraction on the screen."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _left(self) -> str:
        elapsed_s = time.monotonic() - self._started_s
        if not self._n_trained:
            return ""
        missing = max(0, self._n_planned - self._n_recorded - self._n_trained - self._n_failed - self._n_stopped)
        return f"about {duration(missing * elapsed_s / self._n_trained)} left"

    def _table(self) -> Group:
        table = Table(box=None, pad_edge=False)
        table.add_column("method")
        table.add_column("candidates", justify="right")
        table.add_column("trials", justify="right")
        table.add_column(f"best {self._objective}", justify="right")
        table.add_column("with")
        if (queue := self._queue) is not None:
            for method, searches in _by_method(queue).items():
                table.add_row(*_row(queue, method, searches, self._n_trials[method], self._objective))
        done = self._n_recorded + self._n_trained
        failed = f", {self._n_failed} failed" if self._n_failed else ""
        failed += f", {self._n_stopped} saved by early stopping" if self._n_stopped else ""
        return Group(Text(f"{self._phase}: {done}/{self._n_planned} trials{failed}, {self._left()}"), table)

    def _show(self, content: Group | Text) -> None:
        if self._quiet:
            return
        if not self.console.is_terminal:
            if isinstance(content, Text) and time.monotonic() - self._last_line_s >= _PLAIN_LINE_EVERY_S:
                self._last_line_s = time.monotonic()
                self.say(content.plain)
            return
        if self._live is None:
            self._live = Live(console=self.console, auto_refresh=False)
            self._live.start()
        self._live.update(content, refresh=True)


def _by_method(queue: PackQueue) -> dict[str, list[CandidateSearch]]:
    found: dict[str, list[CandidateSearch]] = {}
    for search in queue.searches:
        found.setdefault(search.method, []).append(search)
    return found


def _row(
    queue: PackQueue, method: str, searches: Sequence[CandidateSearch], n_trials: int, objective: str
) -> tuple[str, ...]:
    """Return a method's row: with several searches, the mean over them of the best score."""
    bests = [one for search in searches if (one := queue.best(search)) is not None]
    scores = [s for search in searches if (one := queue.best(search)) and (s := queue.score(search, one)) is not None]
    shown = ""
    if len(searches) == 1 and bests:
        shown = ", ".join(f"{name} {value_text(name, value)}" for name, value in bests[0].params)
    n_done = sum(len(queue.outcomes(search)) for search in searches)
    n_candidates = sum(len(search.candidates) for search in searches)
    best = f"{figure_of(mean_score(scores), objective):.4f}" if scores else ""
    return method, f"{n_done}/{n_candidates}", str(n_trials), best, shown


def notebook_progress() -> Progress:
    """Return a progress that prints plain lines in a notebook, and nothing elsewhere."""
    return Progress(Console(force_jupyter=False), quiet=not Console().is_jupyter)
