"""The search as Optuna studies on disk, for `optuna-dashboard` and Optuna's own analyses. Derived from the records.

The sampler's own study is in memory. The journal is read only to see whether it is up to date: one that is missing,
damaged, or different from the records is written anew, and one that is behind is completed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from embedding_jobs.files import remove_asides, whole_file
from study.config.schema import Search
from study.search.proposals import Outcome, percent_done
from study.search.space import distributions
from trainables.records.failures import Stop
from trainables.records.types import Candidate

# The journal's file in a study's directory.
JOURNAL = "optuna.log"

_KEY = "candidate"

# What Optuna raises about a journal that is damaged, or that another program wrote.
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, AssertionError, RecursionError, NotImplementedError)


class Journal:
    """The finished candidates of a study, one Optuna study per search.

    Args:
        path: The journal's file. Only the run that holds the directory's lock writes to it.
        outcomes: Score or stop of each finished candidate, by the name of its search.
    """

    def __init__(self, path: Path, search: Search, outcomes: Mapping[str, Mapping[Candidate, Outcome]]) -> None:
        self._search = search
        self._spaces = {method: distributions(search, method) for method in search.methods}
        Path(f"{path}.lock").unlink(missing_ok=True)  # left by a killed writer; there is no other one
        self._names = tuple(outcomes)
        trials = {
            (name, candidate.key): self._trial(candidate, outcome)
            for name, own in outcomes.items()
            for candidate, outcome in own.items()
        }
        found = read_trials(path)
        if found is None or any(not _agree(trials.get(key), trial) for key, trial in found.items()):
            self._make(path, outcomes)
            return
        self._studies = self._open(path)
        for name, own in outcomes.items():
            for candidate, outcome in own.items():
                if (name, candidate.key) not in found:
                    self.add(name, candidate, outcome)

    def add(self, name: str, candidate: Candidate, outcome: Outcome) -> None:
        """Add a candidate that has just finished to its search."""
        self._studies[name].add_trial(self._trial(candidate, outcome))

    def _trial(self, candidate: Candidate, outcome: Outcome) -> FrozenTrial:
        space = self._spaces[candidate.method]
        params = {name: value for name, value in candidate.params if name in space}
        if isinstance(outcome, Stop):
            values = dict(outcome.evaluations) or {percent_done(outcome): outcome.value}
            state, score = TrialState.PRUNED, outcome.value
        else:
            values, state, score = {}, TrialState.COMPLETE, outcome
        return create_trial(
            state=state,
            value=score,
            params=params,
            distributions=space,
            user_attrs={_KEY: candidate.key},
            intermediate_values=values,
        )

    def _make(self, path: Path, outcomes: Mapping[str, Mapping[Candidate, Outcome]]) -> None:
        """Write the whole journal again."""
        remove_asides(path.parent, path.name)
        with whole_file(path) as aside:
            self._studies = self._open(aside)
            for name, own in outcomes.items():
                for candidate, outcome in own.items():
                    self.add(name, candidate, outcome)
        self._studies = self._open(path)

    def _open(self, path: Path) -> dict[str, optuna.Study]:
        storage = JournalStorage(JournalFileBackend(str(path)))
        there = optuna.get_all_study_names(storage)
        return {
            name: optuna.load_study(storage=storage, study_name=name)
            if name in there
            else optuna.create_study(storage=storage, study_name=name, direction="maximize")
            for name in self._names
        }


def read_trials(path: Path) -> dict[tuple[str, str], FrozenTrial] | None:
    """Return the trials of a journal by search and candidate; None where the journal is missing or damaged."""
    if not path.exists() or not path.read_bytes().endswith(b"\n"):
        return None
    try:
        for line in path.read_bytes().splitlines():
            json.loads(line)  # Optuna itself ignores a damaged last line
        storage = JournalStorage(JournalFileBackend(str(path)))
        return {
            (study.study_name, trial.user_attrs[_KEY]): trial
            for study in storage.get_all_studies()
            for trial in storage.get_all_trials(study._study_id)
        }
    except _UNREADABLE:
        return None


def _agree(expected: FrozenTrial | None, found: FrozenTrial) -> bool:
    return expected is not None and all(
        getattr(expected, name) == getattr(found, name)
        for name in ("state", "value", "params", "distributions", "intermediate_values")
    )
