"""The counted work of a study, and the packs that measure its cost."""

from pathlib import Path

import pandas as pd

from study.cluster.estimate import count_work
from study.config.load import load_spec
from study.execution.pack_context import pilot_context
from tests.study_tests.conftest import MakeStudy
from trainables.records.types import SplitId
from trainables.sampling.splits import split_of


def test_official_splits_are_counted_and_measured_as_the_table_has_them(make_study: MakeStudy, tmp_path: Path) -> None:
    make_study()
    frame = pd.read_csv(tmp_path / "table.csv")
    frame["fold"] = ["Train"] * 100 + [" dev"] * 40 + ["TEST"] * 100
    frame.to_csv(tmp_path / "table.csv", index=False)
    search = {"selection": "nested", "inner_unknown_fraction": 0}
    spec = load_spec(
        make_study(data={"split": "fold"}, splits={"design": "official", "train_fraction": None}, search=search)
    )
    work = count_work(spec, {"title": 8})
    assert [(row.name, row.n_trials, row.n_train) for row in work.phases] == [
        ("search", 2, 100),
        ("search", 4, 100),
        ("test", 2, 100),
        ("test", 2, 100),
    ]
    context = pilot_context(spec, work.items, work.class_names, work.n_features)
    sizes = {}
    for split in (SplitId(0, 0), SplitId(0)):
        found = split_of(context.items, context.rules, split)
        sizes[split] = (len(found.train), len(found.validation))
    assert sizes == {SplitId(0, 0): (100, 40), SplitId(0): (100, 100)}
