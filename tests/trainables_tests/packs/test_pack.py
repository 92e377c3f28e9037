"""What a pack leaves: a record of what was trained, and a reason for each split that gave nothing."""

import importlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.trainables_tests.training.test_engine import SETTINGS, items
from trainables.methods.protocol import Augmentation
from trainables.methods.registry import METHODS, method_code
from trainables.packs.pack import PackContext
from trainables.packs.trainable import PackTrainable, on_device, training_device
from trainables.records.parquet import read_record_file
from trainables.records.types import NOT_CALIBRATED, SEARCH, TEST, Calibration, Candidate, Design, Pack, SplitId
from trainables.sampling.splits import SplitItems, SplitRules, split_of
from trainables.training.protocol import TrainingError

PACK = Pack(TEST, Candidate.of("control", {}), tuple(map(SplitId, range(6))))

RULES = SplitRules(Design.RANDOM, 0.3)

SOME = replace(RULES, unknown_class_fraction=0.3)


@pytest.fixture
def context(tmp_path: Path) -> PackContext:
    x, labels = items()
    settings = replace(SETTINGS, epochs=2, evaluate_every_epochs=1, batch_size=8)
    records, made_by = str(tmp_path / "records"), {"git_commit": "abc"}
    return PackContext(x.numpy(), SplitItems(labels.numpy()), RULES, settings, records, "auc_weighted", 1, made_by)


def train(context: PackContext, pack: Pack = PACK, calibrations: Sequence[Calibration] = ()) -> dict[str, Any]:
    """What a pack's last step reports, without Ray."""
    trainable = object.__new__(PackTrainable)
    trainable.setup({"pack": pack, "calibrations": calibrations}, context)
    while not (report := trainable.step()).get("done"):
        assert "record" not in report
    return report


def test_a_split_with_fewer_items_than_a_batch_fails_alone(context: PackContext) -> None:
    left = {split: len(split_of(context.items, SOME, split).train) for split in PACK.splits}
    batch = sorted(left.values())[3] // 2 * 2
    short = {seed: n for seed, n in left.items() if n < batch}
    assert 0 < len(short) < len(left)
    context = replace(context, rules=SOME, settings=replace(context.settings, batch_size=batch))
    report = train(context)
    assert dict(report["failures"]) == {
        seed: f"The batch ({batch}) must not exceed the {n} training items of the split: lower it"
        for seed, n in short.items()
    }
    together = read_record_file(Path(report["record"]))
    assert {record.config.split for record in together} == set(left) - set(short)
    assert all(np.isfinite(record.metrics["ood_auroc_knn_input"]) for record in together)

    alone = train(context, replace(PACK, splits=(next(iter(short)),)))
    assert alone["record"] == ""
    assert set(dict(alone["failures"])) == {next(iter(short))}


def test_an_inner_split_chooses_threshold_and_temperature_and_a_trial_on_test_items_takes_them(
    context: PackContext,
) -> None:
    inner = replace(PACK, phase=SEARCH, splits=(SplitId(0, 0), SplitId(1, 0)))
    report = train(replace(context, rules=replace(RULES, train_fraction=0.5)), inner)
    chosen = {one.config.split: one.calibration for one in read_record_file(Path(report["record"]))}
    assert set(chosen) == set(inner.splits)
    assert all(0.01 < one.temperature < 100 and np.isfinite(one.threshold) for one in chosen.values())

    given = {split.outer: calibration for split, calibration in chosen.items()}
    pack = replace(PACK, splits=(SplitId(0), SplitId(2)))
    report = train(context, pack, [given[SplitId(0)], NOT_CALIBRATED])
    with_inner, without = read_record_file(Path(report["record"]), with_items=True)
    assert with_inner.calibration == given[SplitId(0)]
    items = with_inner.items
    assert items is not None
    assert items.nll.mean() == pytest.approx(with_inner.metrics["nll"], rel=1e-3)
    told = np.where(items.logit > given[SplitId(0)].threshold, items.predicted, -1)
    right = np.where(items.known, told == items.label, told == -1)
    assert with_inner.metrics["accuracy_chosen"] == pytest.approx(right.mean())
    assert np.isfinite([with_inner.metrics[name] for name in ("nll_scaled", "brier_scaled", "ece_known_scaled")]).all()
    assert np.isnan([without.metrics[name] for name in ("accuracy_chosen", "nll_scaled", "ece_known_scaled")]).all()


def test_a_trial_whose_objective_is_not_defined_has_failed(context: PackContext) -> None:
    """Such as the accuracy over "none" items, where a split happens to have none."""
    labels = np.arange(len(context.labels)) % 2  # both classes are in every training set
    report = train(replace(context, items=SplitItems(labels), objective="accuracy_none"))
    assert report["record"] == ""
    failures = dict(report["failures"])
    assert set(failures) == set(PACK.splits)
    (reason,) = set(failures.values())
    assert reason.startswith("accuracy_none is not defined on the split, which has no item to measure it on")


def test_what_cannot_be_written_is_told_and_not_raised(context: PackContext, tmp_path: Path) -> None:
    (tmp_path / "records").write_text("in the way")
    report = train(context)
    assert "records" in report["unwritable"]
    assert "record" not in report


@pytest.mark.parametrize("is_visible", [True, False])
def test_a_pack_trains_on_what_the_study_gives_it(
    context: PackContext, is_visible: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU though a GPU is visible; and never on the CPU where a GPU is asked for."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: is_visible)
    embeddings, labels, hardware = on_device(context)
    assert (embeddings.device.type, labels.device.type, hardware.split()[0]) == ("cpu", "cpu", "cpu")
    if is_visible:
        assert training_device(on_gpu=True).type == "cuda"
    else:
        with pytest.raises(TrainingError, match=r"`resources\.gpus_per_pack` must be 0 where torch finds no GPU"):
            on_device(replace(context, on_gpu=True))


def test_the_code_of_a_record_is_the_one_that_was_loaded(
    context: PackContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method that is edited while packs train does not change in the processes that have loaded it."""
    source = tmp_path / "method_of_a_third_party.py"
    source.write_text("def transform(batch, params, draws):\n    return batch\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    transform = importlib.import_module("method_of_a_third_party").transform
    monkeypatch.setitem(METHODS, "mine", Augmentation("mine", transform, {}))
    trainable = object.__new__(PackTrainable)
    made_by = []
    for split in (0, 1):
        config = {"pack": Pack(TEST, Candidate.of("mine", {}), (SplitId(split),)), "calibrations": ()}
        if split == 0:
            trainable.setup(config, context)
        else:
            source.write_text(source.read_text() + "# edited\n")
            trainable.reset_config(config)
        while not (report := trainable.step()).get("done"):
            pass
        made_by += [one.provenance["method_code"] for one in read_record_file(Path(report["record"]))]
    assert made_by[0] == made_by[1] != method_code("mine")
