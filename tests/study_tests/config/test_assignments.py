"""Values that `--set` gives in place of the study file's."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from study import load_spec
from study.cli.options import StudyFile
from study.config.assignments import assigned
from study.errors import SpecError
from study.execution.pack_context import load_embeddings
from study.state.description import describe
from tests.study_tests.conftest import Command, MakeStudy


def test_values_are_those_of_the_resulting_file(make_study: MakeStudy, tmp_path: Path) -> None:
    file = make_study()
    own = load_spec(
        file,
        assignments=[
            "training.epochs=3",
            "training.epochs=4",
            "training.learning_rate.high=1e-3",
            "splits={design: random, train_fraction: 0.5}",
            "search.methods.e_mixup.alpha=[0.1]",
            "search.methods.soft_control=",
            "objective.metric=top1",
            "directory=other",
        ],
    )
    raw = yaml.safe_load(file.read_text())
    raw["training"] |= {"epochs": 4, "learning_rate": {"high": 1e-3}}
    raw["splits"] = {"design": "random", "train_fraction": 0.5}
    raw["search"]["methods"] |= {"e_mixup": {"alpha": [0.1]}, "soft_control": {}}
    raw |= {"objective": {"metric": "top1"}, "directory": "other"}
    file.write_text(yaml.safe_dump(raw))
    assert own == load_spec(file)
    assert own.root == tmp_path / "other", "relative to the file"


def test_the_contents_given_are_not_changed() -> None:
    shared = {"alpha": 1}
    raw = {"a": shared, "b": shared, "my.module:Method": {"x": 1}, "none": None}
    found = assigned(raw, ["a.alpha=2", "my.module:Method.x=[1, 2]", "none.new={y: null}", "text=a=b"])
    assert raw == {"a": {"alpha": 1}, "b": {"alpha": 1}, "my.module:Method": {"x": 1}, "none": None}
    assert found == {
        "a": {"alpha": 2},
        "b": {"alpha": 1},
        "my.module:Method": {"x": [1, 2]},
        "none": {"new": {"y": None}},
        "text": "a=b",
    }


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("training.epoch=24", r"`training.epoch` is not a key \(did you mean .*`epochs`.*\(--set training.epoch\)$"),
        ("trainnig.epochs=24", r"`trainnig` is not a key .*`training`.*\(--set trainnig.epochs\)$"),
        ("training.epochs=many", r"`training.epochs` must be a whole number, got 'many' \(--set training.epochs\)$"),
        ("training.epochs.x=1", r"--set training.epochs.x must name a key of a mapping, and `training.epochs` is 6; "),
        (
            "data.text.0=kind",
            r"--set data.text.0 must name a key of a mapping, and `data.text` is \['title'\]; give it",
        ),
        ("splits={n_splits: 0}", r"`splits.n_splits` must be at least 1, got 0 \(--set splits\)$"),
        (
            "training.epochs",
            r"--set must be KEY=VALUE, got 'training.epochs'; write it such as --set training.epochs=24",
        ),
        ("=3", r"--set must be KEY=VALUE, got '=3'"),
        ("training.epochs=[3", r"--set training.epochs must give a value in YAML: line 1, column 3: "),
        ("training.epochs={a: 1, a: 2}", r"--set training.epochs must give a value in YAML: .*`a` is given twice"),
        ("tracking.uri=http://me:geheim@host", r"`tracking.uri` .* \(--set tracking.uri\)$"),
    ],
)
def test_a_wrong_value_is_named_with_its_option(
    make_study: MakeStudy, command: Command, assignment: str, expected: str
) -> None:
    file = make_study()
    for name in ("check", "run"):
        code, _, said = command(name, "-c", str(file), "--set", "splits.seed=3", "--set", assignment)
        assert code == 2
        assert re.search(rf"^Error: {re.escape(str(file))} has 1 problem:\n  - {expected}", said, re.M), said
        assert "geheim" not in said
    assert not (file.parent / "out").exists()


def test_a_problem_of_the_file_is_not_laid_to_the_option(make_study: MakeStudy) -> None:
    file = make_study(training={"dropuot": 0.1})
    with pytest.raises(SpecError, match=r"`training.dropuot` is not a key .*pretraining$") as error:
        load_spec(file, assignments=["training.epochs=24"])
    assert "--set" not in str(error.value)


def test_a_value_is_a_change_of_the_study(finished: Path, tmp_path: Path, command: Command) -> None:
    """What decides results is refused, whichever way it came; what extends a study is not."""
    shutil.copytree(finished.parent, tmp_path / "study")
    file = tmp_path / "study" / "study.yaml"
    code, out, _ = command("check", "-c", str(file), "--set", "splits.n_splits=4", "--set", "name=four")
    assert code == 0
    assert out.startswith(f"{file} --set splits.n_splits=4 --set name=four: valid.")
    assert "= 12 trials." in out
    code, _, said = command("check", "-c", str(file), "--set", "training.epochs=12")
    assert code == 2
    assert "made with other settings or data (training.epochs: 6 -> 12)" in said
    assert "in the study file or by --set." in said

    spec = load_spec(file, assignments=["training.epochs=12", "directory=out"])
    assert describe(spec, load_embeddings(spec), ["a", "b"]).settings["training"]["epochs"] == 12


def test_a_cluster_gets_the_resulting_file(make_study: MakeStudy) -> None:
    file = make_study()
    given = StudyFile(file, ("training.epochs=3", "search.methods={control: {}}"))
    own, text = given.load(), given.text()
    assert StudyFile(file).text() == file.read_text(), "to the letter, with its comments"
    file.write_text(text)
    assert load_spec(file) == own


def test_hints_repeat_the_values(make_study: MakeStudy, command: Command) -> None:
    file = make_study()
    said = command("open", "-c", str(file), "--set", "search.methods={control: {}}")[2]
    assert said.endswith(f"make it: study run -c {file} --set 'search.methods={{control: {{}}}}'\n")
