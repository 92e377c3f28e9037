"""The journal: what Optuna reads in it is what the records say, whatever happened to the file."""

from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from study.config.schema import Search
from study.search.journal import Journal
from study.search.proposals import Outcome
from trainables.records.failures import Stop
from trainables.records.types import Candidate, SplitId

SEARCH = Search.model_validate(
    {
        "sampler": "tpe",
        "methods": {"control": {}, "soft_e_mixup": {"alpha": {"low": 0.05, "high": 2.0}, "softness": [0.01, 0.05]}},
    }
)


def soft(alpha: float) -> Candidate:
    return Candidate.of("soft_e_mixup", {"alpha": alpha, "softness": 0.05})


SPLITS = SplitId(3, 0), SplitId(3, 1)

STOP = Stop("search", soft(0.3), SPLITS, "asha", "accuracy", 0.5, 100, 200, SPLITS, ((2, 0.4), (4, 0.5)))


ON_SPLIT = "soft_e_mixup on split 3"

OUTCOMES: dict[str, dict[Candidate, Outcome]] = {
    "control": {Candidate("control"): 0.9},
    ON_SPLIT: {soft(0.1): 0.8, soft(0.2): 0.85, soft(0.3): STOP},
    "soft_e_mixup on split 4": {soft(0.1): 0.7},
}


def read(path: Path) -> dict[str, list[tuple[dict[str, float], TrialState, float | None]]]:
    """As another process, like optuna-dashboard, reads it."""
    storage = JournalStorage(JournalFileBackend(str(path)))
    studies = optuna.get_all_study_summaries(storage)
    trials = {study.study_name: storage.get_all_trials(study._study_id) for study in studies}
    return {name: [(trial.params, trial.state, trial.value) for trial in found] for name, found in trials.items()}


WHOLE = {
    "control": [({}, TrialState.COMPLETE, 0.9)],
    ON_SPLIT: [
        ({"alpha": 0.1, "softness": 0.05}, TrialState.COMPLETE, 0.8),
        ({"alpha": 0.2, "softness": 0.05}, TrialState.COMPLETE, 0.85),
        ({"alpha": 0.3, "softness": 0.05}, TrialState.PRUNED, 0.5),
    ],
    "soft_e_mixup on split 4": [({"alpha": 0.1, "softness": 0.05}, TrialState.COMPLETE, 0.7)],
}


def test_others_read_it_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "journal.log"
    journal = Journal(path, SEARCH, {name: {} for name in OUTCOMES})
    assert read(path) == {name: [] for name in OUTCOMES}
    for name, outcomes in OUTCOMES.items():
        for candidate, outcome in outcomes.items():
            journal.add(name, candidate, outcome)
    assert read(path) == WHOLE
    study = optuna.load_study(study_name=ON_SPLIT, storage=JournalStorage(JournalFileBackend(str(path))))
    assert study.best_value == 0.85
    assert study.trials[2].intermediate_values == {2: 0.4, 4: 0.5}


@pytest.mark.parametrize("damage", ["none", "missing", "behind", "half a line", "garbage", "locked", "other values"])
def test_it_is_brought_up_to_date(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "journal.log"
    known = dict(OUTCOMES)
    if damage == "behind":
        known = {**{name: {} for name in OUTCOMES}, ON_SPLIT: {soft(0.1): 0.8}}
    elif damage == "other values":
        known[ON_SPLIT] = {**OUTCOMES[ON_SPLIT], soft(0.1): 0.7}
    Journal(path, SEARCH, known)
    before = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "half a line":
        path.write_bytes(before[:-20])
    elif damage == "garbage":
        path.write_bytes(b"no journal\n")
    elif damage == "locked":
        Path(f"{path}.lock").symlink_to(path)
    Journal(path, SEARCH, OUTCOMES)
    assert read(path) == WHOLE
    if damage in ("none", "locked"):
        assert path.read_bytes() == before, "nothing is written twice"


def test_the_searches_of_further_splits_are_added(tmp_path: Path) -> None:
    path = tmp_path / "journal.log"
    Journal(path, SEARCH, {name: OUTCOMES[name] for name in ("control", ON_SPLIT)})
    before = path.read_bytes()
    Journal(path, SEARCH, OUTCOMES)
    assert read(path) == WHOLE
    assert path.read_bytes().startswith(before)


def test_other_ranges_make_it_anew(tmp_path: Path) -> None:
    path = tmp_path / "journal.log"
    Journal(path, SEARCH, OUTCOMES)
    wider = Search.model_validate(
        {
            "sampler": "tpe",
            "methods": {
                "control": {},
                "soft_e_mixup": {"alpha": {"low": 0.01, "high": 2.0}, "softness": [0.01, 0.05, 0.1]},
            },
        }
    )
    Journal(path, wider, OUTCOMES)
    assert read(path) == WHOLE
    assert [p.name for p in tmp_path.iterdir()] == ["journal.log"]
