"""The phases of a study, with made-up trainings in place of Ray Tune: which splits train which candidates."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from study.config.schema import StudySpec
from study.execution import phases
from study.execution.phases import RunState, train_phases
from study.execution.progress import Progress
from study.execution.ray_tune import PackWatcher
from study.search.journal import JOURNAL, read_trials
from study.search.queue import PackQueue
from study.state.description import description_before, plan_of
from tests.study_tests.state.test_description import described, spec_of
from tests.trainables_tests.records.test_parquet import record
from trainables.records.failures import EVALUATED, read_failures, read_stops
from trainables.records.parquet import read_records, record_name, write_records
from trainables.records.types import SEARCH, TEST, Calibration, Candidate, Pack, SplitId, TrialConfig

GRID = {"selection": "nested", "methods": {"control": {}, "e_mixup": {"alpha": [0.1, 0.2, 0.4]}}}

SAMPLED = {
    "selection": "nested",
    "n_inner_splits": 2,
    "sampler": "tpe",
    "n_candidates": 5,
    "n_startup": 2,
    "batch_size": 2,
    "methods": {"control": {}, "e_mixup": {"alpha": {"low": 0.1, "high": 1.0}}},
}

# The best alpha of each split.
BEST = {0: 0.1, 1: 0.4, 2: 0.1}


def alpha_of(candidate: Candidate) -> float:
    return dict(candidate.params).get("alpha", 0.3)


def figures(trial: TrialConfig) -> dict[str, float]:
    """Made-up figures; those of test items favour other candidates, and must have no say."""
    off = abs(alpha_of(trial.candidate) - BEST[trial.split.seed])
    inner = trial.split.inner or 0
    off += 0.001 * inner * alpha_of(trial.candidate)
    good = 0.9 - off if trial.phase == SEARCH else 0.5 + off
    return {
        "auc_weighted": good,
        "nll": off if trial.phase == SEARCH else 1 - off,
        "threshold_logit_chosen": 1.0 + trial.split.seed + 0.5 * inner,
        "temperature": 2.0 + inner,
    }


@dataclass
class Trainer:
    """Trains packs by `figures`, and notes them."""

    records: Path
    fails: Callable[[TrialConfig], bool] = lambda trial: False
    stop_after: int = 10**6
    packs: list[Pack] = field(default_factory=list)
    calibrations: dict[Pack, list[Calibration]] = field(default_factory=dict)

    def train(
        self, queue: PackQueue, context: Any, storage: Path, watcher: PackWatcher, *, cpus: float, gpus: float
    ) -> None:
        while (pack := queue.take()) is not None:
            if len(self.packs) == self.stop_after:
                raise KeyboardInterrupt
            watcher.started()
            self.packs.append(pack)
            self.calibrations[pack] = watcher.calibrations(pack)
            report = {"epoch": 3, **dict.fromkeys(EVALUATED, 0.5)}
            assert not watcher.evaluated(pack, report, {})
            made = [replace(record(), config=one, metrics=figures(one)) for one in pack.trials if not self.fails(one)]
            if made:
                write_records(self.records, made)
            path = self.records / record_name([one.config for one in made]) if made else None
            watcher.trained(pack, path, {one.split: "not a number" for one in pack.trials if self.fails(one)})

    def of(self, phase: str) -> dict[Candidate, list[tuple[SplitId, ...]]]:
        found: dict[Candidate, list[tuple[SplitId, ...]]] = {}
        for pack in self.packs:
            if pack.phase == phase:
                found.setdefault(pack.candidate, []).append(pack.splits)
        return found


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trainer]:
    """Runs the phases of a study of three splits from what is in its directory."""

    def go(search: dict[str, Any], n_splits: int = 3, **given: Any) -> Trainer:
        sections = given.pop("sections", {})
        spec = spec_of(tmp_path, search=search, splits={"n_splits": n_splits}, **sections)
        trainer = Trainer(spec.records, **given)
        monkeypatch.setattr(phases, "train_packs", trainer.train)
        train_phases(state_of(spec), lambda: None)  # type: ignore[arg-type, return-value]
        return trainer

    return go


def state_of(spec: StudySpec) -> RunState:
    spec.records.mkdir(parents=True, exist_ok=True)
    before = description_before(spec)
    description = described(spec, plan_of(spec, before))
    return RunState(
        spec=spec,
        progress=Progress(Console(quiet=True), quiet=True),
        tracker=SimpleNamespace(write=lambda records: None),  # type: ignore[arg-type]
        description=description,
        recorded=read_records(spec.records),
        failures=read_failures(spec.records, *description.made_by),
    )


def mixup(alpha: float) -> Candidate:
    return Candidate.of("e_mixup", {"alpha": alpha})


def splits(*seeds: int) -> tuple[SplitId, ...]:
    return tuple(map(SplitId, seeds))


def test_each_split_is_tested_with_its_own_choice(run: Callable[..., Trainer], tmp_path: Path) -> None:
    trainer = run({**GRID, "n_inner_splits": 2})
    inner = tuple(SplitId(seed, number) for seed in range(3) for number in (0, 1))
    assert trainer.of(SEARCH) == {one: [inner] for one in (Candidate("control"), *map(mixup, (0.1, 0.2, 0.4)))}
    assert trainer.of(TEST) == {
        Candidate("control"): [splits(0, 1, 2)],
        mixup(0.1): [splits(0, 2)],
        mixup(0.4): [splits(1)],
    }, "a candidate that several splits have chosen is one pack"
    for pack, found in trainer.calibrations.items():
        expected = [Calibration(1.25 + split.seed, 2.5) for split in pack.splits] if pack.phase == TEST else []
        assert found == expected, "medians of the inner splits"
    assert set(read_trials(tmp_path / "out" / JOURNAL)) == {  # type: ignore[arg-type]
        ("control", "control()"),
        *(("e_mixup", mixup(alpha).key) for alpha in (0.1, 0.2, 0.4)),
    }
    again = run({**GRID, "n_inner_splits": 2})
    assert again.packs == []


def test_the_lowest_negative_log_likelihood_is_tested(run: Callable[..., Trainer]) -> None:
    trainer = run(GRID, sections={"objective": {"metric": "nll"}})
    assert trainer.of(TEST) == {
        Candidate("control"): [splits(0, 1, 2)],
        mixup(0.1): [splits(0, 2)],
        mixup(0.4): [splits(1)],
    }


def test_a_reported_selection_tests_every_candidate_and_searches_nothing(run: Callable[..., Trainer]) -> None:
    trainer = run({**GRID, "selection": "reported"})
    assert trainer.of(SEARCH) == {}
    every = (Candidate("control"), *map(mixup, (0.1, 0.2, 0.4)))
    assert trainer.of(TEST) == {one: [splits(0, 1, 2)] for one in every}
    assert not any(trainer.calibrations.values())


def test_searches_of_single_splits_end_the_same_whenever_they_are_interrupted(
    run: Callable[..., Trainer], tmp_path: Path
) -> None:
    whole = run(SAMPLED)
    spec = spec_of(tmp_path, search=SAMPLED, splits={"n_splits": 3})
    before = description_before(spec)
    assert before is not None
    assert list(before.candidates) == ["control", *(f"e_mixup on split {seed}" for seed in range(3))]
    assert {len(own) for name, own in before.proposed.items() if name != "control"} == {5}
    trained = {one.config for one in read_records(spec.records)}
    assert all(before.includes(trial) for trial in trained)
    assert {name for name, _ in read_trials(spec.root / JOURNAL) or ()} == set(before.candidates)
    scores = {one.config: one.metrics["auc_weighted"] for one in read_records(spec.records)}
    chosen = {(one, split) for own in before.chosen(scores).values() for split, one in own.items()}
    assert chosen == {(pack.candidate, split) for pack in whole.packs if pack.phase == TEST for split in pack.splits}
    for path in spec.records.glob("*.parquet"):
        path.unlink()
    (spec.root / "study.json").unlink()
    (spec.root / JOURNAL).unlink()

    n_packs = 0
    for stop_after in (0, 3, 6, 7):
        with pytest.raises(KeyboardInterrupt):
            run(SAMPLED, stop_after=stop_after)
        n_packs += stop_after
    n_packs += len(run(SAMPLED).packs)
    assert n_packs == len(whole.packs)
    assert description_before(spec) == before
    assert {one.config for one in read_records(spec.records)} == trained


def test_a_further_split_searches_and_changes_no_other(run: Callable[..., Trainer], tmp_path: Path) -> None:
    two = run(SAMPLED, n_splits=2)
    spec = spec_of(tmp_path, search=SAMPLED, splits={"n_splits": 2})
    before = description_before(spec)
    three = run(SAMPLED, n_splits=3)
    assert {split.seed for pack in two.packs for split in pack.splits} == {0, 1}
    assert {split.seed for pack in three.packs for split in pack.splits} == {2}
    after = description_before(spec)
    assert before is not None
    assert after is not None
    assert {name: after.proposed[name] for name in before.proposed} == before.proposed


@pytest.mark.parametrize("search", [SAMPLED, {**GRID, "n_inner_splits": 2}], ids=["tpe", "grid"])
def test_a_failed_trial_costs_its_own_split_of_its_method(
    run: Callable[..., Trainer], tmp_path: Path, search: dict[str, Any]
) -> None:
    def fails(trial: TrialConfig) -> bool:
        return trial.candidate.method == "e_mixup" and trial.split == SplitId(1, 1)

    trainer = run(search, fails=fails)
    tested = {(one.method, split) for one, packs in trainer.of(TEST).items() for found in packs for split in found}
    assert tested == {("control", SplitId(seed)) for seed in range(3)} | {("e_mixup", SplitId(s)) for s in (0, 2)}
    failures = state_of(spec_of(tmp_path, search=search, splits={"n_splits": 3})).failures
    assert {failure.splits for failure in failures} == {(SplitId(1, 1),)}
    assert len(failures) == (2 if search is SAMPLED else 3), "with tpe, the candidates of the split's first batch"
    assert run(search).packs == [], "what failed is not tried again by itself"


def test_racing_ends_candidates_of_one_split_by_any_objective(run: Callable[..., Trainer], tmp_path: Path) -> None:
    alphas = [0.1, 0.4, 0.7, 1.0]
    rules = {"n_inner_splits": 6, "batch_size": 2, "pruning": {"racing": {"splits_at_once": 2, "confidence": 0.9}}}
    search = {**GRID, **rules, "methods": {"e_mixup": {"alpha": alphas}}}
    sections = {"objective": {"metric": "nll"}}
    trainer = run(search, n_splits=2, sections=sections)
    spec = spec_of(tmp_path, search=search, splits={"n_splits": 2}, **sections)
    stops = read_stops(spec.records, *state_of(spec).description.made_by)
    assert {(stop.candidate, stop.splits) for stop in stops} == {
        (mixup(alpha), tuple(SplitId(seed, inner) for inner in range(2, 6))) for seed in (0, 1) for alpha in alphas[2:]
    }
    assert trainer.of(TEST) == {mixup(0.1): [splits(0)], mixup(0.4): [splits(1)]}
    assert run(search, n_splits=2, sections=sections).packs == []
