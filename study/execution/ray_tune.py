"""Train packs with Ray Tune: a searcher hands them out, a scheduler stops them, a callback reports on them."""

from __future__ import annotations

import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any, Protocol

import ray
from ray import tune
from ray.tune.execution import class_cache
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from study.search.queue import PackQueue
from trainables.packs.trainable import PackTrainable
from trainables.records.types import Calibration, Pack, SplitId

_AWS_KEYS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN"}


class PackWatcher(Protocol):
    """What `train_packs` calls in the driver at every event of a pack."""

    def calibrations(self, pack: Pack) -> list[Calibration]:
        """Return what the inner splits have chosen for each trial of a pack; nothing where there is no inner split."""

    def started(self) -> None:
        """Note that a pack was started."""

    def evaluated(self, pack: Pack, result: dict[str, Any], evaluations: dict[int, float]) -> bool:
        """Return whether to stop a pack that was evaluated during its training.

        Args:
            pack: The pack.
            result: The report of its trainable.
            evaluations: Earlier evaluations of the pack, by epoch; this one is to be added.
        """

    def trained(self, pack: Pack, record: Path | None, failures: dict[SplitId, str]) -> None:
        """Note that a pack has ended.

        Args:
            pack: The pack.
            record: Its record file; None if no trial has a result.
            failures: Why trials have no result, by split.
        """

    def unwritable(self, reason: str) -> None:
        """Note that the record of a pack could not be written."""

    def lost(self, pack: Pack, traceback: str) -> None:
        """Note that a pack raised an error, or that its process or node died."""


def train_packs(
    queue: PackQueue, context: ray.ObjectRef, storage: Path, watcher: PackWatcher, *, cpus: float, gpus: float
) -> None:
    """Train the packs of a queue until it is exhausted.

    Args:
        queue: The packs.
        context: `PackContext` in the object store.
        storage: Folder for Tune's own state, which is never read again; it is removed at the end.
        watcher: Updates the queue: each pack is finished, or lost and then to be retried or failed.
        cpus: CPUs per pack.
        gpus: GPUs per pack.
    """
    # Tune would put the driver's AWS keys into its actors' runtime environment, which Ray writes to logs and shows in
    # its dashboard. Packs need none: a node has its own rights.
    class_cache.ENV_VARS_TO_PROPAGATE -= _AWS_KEYS
    tune.Tuner(
        tune.with_resources(tune.with_parameters(PackTrainable, context=context), {"cpu": cpus, "gpu": gpus}),
        tune_config=tune.TuneConfig(
            search_alg=_PackSearcher(queue, watcher),
            scheduler=_PackScheduler(watcher),
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=lambda trial: trial.trial_id,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="packs",
            storage_path=str(storage),
            callbacks=[_Callback(watcher)],
            verbose=0,
            # The queue hands out lost packs again: Tune itself does not retry a pack whose actor never started.
            failure_config=tune.FailureConfig(max_failures=0),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        ),
    ).fit()
    shutil.rmtree(storage, ignore_errors=True)


class _Stateless:
    """A part of Tune without state: Tune pickles its parts, but the records are the state and nothing is restored."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _PackSearcher(_Stateless, Searcher):  # type: ignore[misc]
    """Hand out the packs of the queue."""

    def __init__(self, queue: PackQueue, watcher: PackWatcher) -> None:
        super().__init__()
        self._queue, self._watcher = queue, watcher

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next pack; None while the queue waits for scores; `FINISHED` at the end."""
        pack = self._queue.take()
        if pack is not None:
            return {"pack": pack, "calibrations": self._watcher.calibrations(pack)}
        return Searcher.FINISHED if self._queue.exhausted else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: the watcher updates the queue."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing."""


class _PackScheduler(_Stateless, FIFOScheduler):  # type: ignore[misc]
    """Run packs in the order of the queue; the watcher may stop a pack at each evaluation."""

    def __init__(self, watcher: PackWatcher) -> None:
        super().__init__()
        self._watcher = watcher
        self._evaluations: defaultdict[str, dict[int, float]] = defaultdict(dict)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Ask the watcher whether to stop the pack."""
        stop = self._watcher.evaluated(trial.config["pack"], result, self._evaluations[trial.trial_id])
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Forget the evaluations of the pack."""
        self._evaluations.pop(trial.trial_id, None)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Forget the evaluations of the pack."""
        self._evaluations.pop(trial.trial_id, None)


class _Callback(_Stateless, tune.Callback):  # type: ignore[misc]
    """Report every event of a pack to the watcher."""

    def __init__(self, watcher: PackWatcher) -> None:
        self._watcher = watcher

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._watcher.started()

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        result = trial.last_result or {}
        if result.get("unwritable"):
            self._watcher.unwritable(result["unwritable"])
        elif "record" in result:  # missing if the scheduler stopped the pack
            record = Path(result["record"]) if result["record"] else None
            self._watcher.trained(trial.config["pack"], record, dict(result["failures"]))
        # Tune keeps running means of every field of every trial until it ends: most of a pack's memory.
        trial.metric_analysis.clear()
        trial.metric_n_steps.clear()

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        traceback = Path(trial.error_file).read_text() if trial.error_file else "Its process was lost."
        self._watcher.lost(trial.config["pack"], traceback.strip())
