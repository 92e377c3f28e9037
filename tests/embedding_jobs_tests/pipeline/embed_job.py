"""A whole job in a process of its own, for tests that end it by force: `python embed_job.py TABLE STORE`.

With KILL_AT_INPUTS in its environment it kills itself as soon as it hears that so many inputs are encoded.
"""

import os
import signal
import sys

import ray

from embedding_jobs.encoders.config import CustomEncoderConfig
from embedding_jobs.errors import EncoderError, SourceError, StoreError
from embedding_jobs.pipeline.extract import extract
from embedding_jobs.pipeline.summary import ExtractionProgress
from embedding_jobs.sources.items import Source


def report(progress: ExtractionProgress) -> None:
    print(f"{progress.n_inputs_done}/{progress.n_inputs} {progress.n_shards_done}/{progress.n_shards}", flush=True)
    if progress.n_inputs_done >= int(os.environ.get("KILL_AT_INPUTS", "1_000_000")):
        os.kill(os.getpid(), signal.SIGKILL)


def main(table: str, store: str) -> int:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
    CustomEncoderConfig.items_per_unit = 50
    config = CustomEncoderConfig("hashing", "words", {"dimension": 256})
    try:
        summary = extract(
            Source(table, "id", "label", ("title",)), {"title": config}, store, rows_per_shard=100, on_progress=report
        )
    except (StoreError, SourceError, EncoderError) as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        return 2
    print(f"done {summary[0].n_inputs_encoded}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
