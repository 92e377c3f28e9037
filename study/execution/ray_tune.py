"""Packs through Ray Tune: the searcher that hands them out, the scheduler that stops them, the call that runs them."""

from __future__ import annotations

import os
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
from trainables.packs.pack import Pack
from trainables.packs.trainable import PackTrainable

# Tune's own loggers and tables cost a fifth of a second a trial and say what progress says better.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")

os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")

os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")


# Tune would put the driver's AWS keys into its actors' runtime environment, which Ray writes to logs and shows in its
# dashboard. Packs need none: a node has its own rights.
class_cache.ENV_VARS_TO_PROPAGATE -= {
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN",
}  # fmt: skip


class PackWatcher(Protocol):
    """Who is told of every pack, in the driver."""

    def started(self) -> None:
        """A pack was started."""
        ...

    def evaluated(self, pack: Pack, result: dict[str, Any], evaluations: dict[int, float]) -> bool:
        """A pack in training was evaluated.

        Args:
            pack: The pack.
            result: What its trainable reports.
            evaluations: Of the pack so far, by epoch; to be added to.

        Returns:
            Whether to stop it.
        """
        ...

    def trained(self, pack: Pack, record: Path | None, failures: dict[int, str]) -> None:
        """A pack has ended.

        Args:
            pack: The pack.
            record: Its record file; None where no trial gave a result.
            failures: Why trials gave none, by split.
        """
        ...

    def unwritable(self, reason: str) -> None:
        """What a pack trained could not be written."""
        ...

    def lost(self, pack: Pack, traceback: str) -> None:
        """A pack raised, or its process or node died."""
        ...


def train_packs(
    queue: PackQueue, context: ray.ObjectRef, storage: Path, watcher: PackWatcher, *, cpus: float, gpus: float
) -> None:
    """Trains the packs of a queue until it is exhausted.

    Args:
        queue: The packs.
        context: `PackContext` in the object store.
        storage: Folder for Tune's own state, which is never read again.
        watcher: Who is told; it notes in the queue what became of each pack, a lost one to be retried or failed.
        cpus: CPUs of a pack.
        gpus: GPUs of a pack.
    """
    shutil.rmtree(storage, ignore_errors=True)
    tune.Tuner(
        tune.with_resources(tune.with_parameters(PackTrainable, context=context), {"cpu": cpus, "gpu": gpus}),
        tune_config=tune.TuneConfig(
            search_alg=_PackSearcher(queue),
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
            # The queue hands a lost pack out again: Tune's own retries pass over one whose actor never came up.
            failure_config=tune.FailureConfig(max_failures=0),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        ),
    ).fit()
    shutil.rmtree(storage, ignore_errors=True)


class _Stateless:
    """Tune pickles its parts into an experiment state; it is never restored: the records are the state."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _PackSearcher(_Stateless, Searcher):  # type: ignore[misc]
    """Hands out the queue's packs."""

    def __init__(self, queue: PackQueue) -> None:
        super().__init__()
        self._queue = queue

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next pack; None while the queue waits for scores; `FINISHED` at the end."""
        pack = self._queue.take()
        if pack is not None:
            return {"pack": pack}
        return Searcher.FINISHED if self._queue.exhausted else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the watcher reads the record and notes its scores."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""


class _PackScheduler(_Stateless, FIFOScheduler):  # type: ignore[misc]
    """First come, first served; at each evaluation the watcher may stop a pack."""

    def __init__(self, watcher: PackWatcher) -> None:
        super().__init__()
        self._watcher = watcher
        self._evaluations: defaultdict[str, dict[int, float]] = defaultdict(dict)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Asks the watcher."""
        stop = self._watcher.evaluated(trial.config["pack"], result, self._evaluations[trial.trial_id])
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Forgets the pack."""
        self._evaluations.pop(trial.trial_id, None)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Forgets the pack."""
        self._evaluations.pop(trial.trial_id, None)


class _Callback(_Stateless, tune.Callback):  # type: ignore[misc]
    """Tells the watcher what became of packs."""

    def __init__(self, watcher: PackWatcher) -> None:
        self._watcher = watcher

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._watcher.started()

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        result = trial.last_result or {}
        if result.get("unwritable"):
            self._watcher.unwritable(result["unwritable"])
        elif "record" in result:  # a pack that the scheduler stopped has none
            record = Path(result["record"]) if result["record"] else None
            self._watcher.trained(trial.config["pack"], record, result["failures"])
        # Tune keeps running means of every field of every trial to its end: most of what a pack costs in memory.
        trial.metric_analysis.clear()
        trial.metric_n_steps.clear()

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        traceback = Path(trial.error_file).read_text() if trial.error_file else "Its process was lost."
        self._watcher.lost(trial.config["pack"], traceback.strip())
