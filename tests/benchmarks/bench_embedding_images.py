"""Rate of the whole image job against a plain timm loop on decoded and normalised tensors.

Run: `python tests/benchmarks/bench_embedding_images.py --images FOLDER [--n 2500] [--model efficientnet_b4]`. Both use
the same network, of random weights, at its own input size and the same threads (or the same GPU and precision); the
peer uses the best of several batch sizes. Repeats alternate between the two; medians are printed.
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True, help="folder of JPEG files")
    parser.add_argument("--n", type=int, default=2500)
    parser.add_argument("--model", default="efficientnet_b4")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()

    import pyarrow as pa
    import pyarrow.parquet as pq
    import ray
    import torch
    from safetensors.torch import save_file

    from embedding_jobs.encoders.config import ImageEncoderConfig
    from embedding_jobs.encoders.image import network
    from embedding_jobs.encoders.registry import encoder_kind
    from embedding_jobs.encoders.torch_runtime import compute_dtype, import_timm
    from embedding_jobs.pipeline.extract import extract
    from embedding_jobs.sources.items import Source

    torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = compute_dtype("auto", device)
    weights = Path(tempfile.mkdtemp(), "weights.safetensors")
    save_file(import_timm().create_model(options.model, num_classes=0).state_dict(), weights)
    config = ImageEncoderConfig(options.model, checkpoint=str(weights))
    paths = sorted(Path(options.images).glob("*.jpg"))[: options.n]
    decoder = encoder_kind(config).preprocessor(config)
    decoded = [decoder([path.read_bytes()]).arrays["pixels"] for path in paths[: min(len(paths), 256)]]
    pixels = torch.from_numpy(np.concatenate(decoded)).float().div(255).sub(0.45).div(0.225).to(dtype)
    model = network(config).to(device=device, dtype=dtype)
    channels_last = model.to(memory_format=torch.channels_last)

    def bare(size: int, n: int) -> float:
        """Return images per second over `n` images, reusing the decoded tensors."""
        start = time.perf_counter()
        done = 0
        with torch.inference_mode():
            while done < n:
                at = done % len(pixels)
                batch = pixels[at : at + min(size, n - done)].to(device)
                channels_last.forward_features(batch.contiguous(memory_format=torch.channels_last)).mean(dim=(2, 3))
                done += len(batch)
        if device == "cuda":
            torch.cuda.synchronize()
        return n / (time.perf_counter() - start)

    bare(4, 8)
    rates = {
        size: bare(size, max(16, 2 * size)) for size in ((1, 2, 4, 8, 16, 32) if device == "cpu" else (64, 128, 256))
    }
    best = max(rates, key=lambda size: rates[size])
    print(f"bare loop's batch sizes, images a second: { ({k: round(v, 1) for k, v in rates.items()}) }; best {best}")

    ray.init(num_cpus=options.threads, include_dashboard=False, log_to_driver=False)
    ours, theirs, shares = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        table = {
            "id": [path.stem for path in paths],
            "label": [str(i % 2) for i in range(len(paths))],
            "image": [str(path.resolve()) for path in paths],
        }
        pq.write_table(pa.table(table), Path(folder) / "table.parquet")
        source = Source(str(Path(folder) / "table.parquet"), "id", "label", (), "image")
        for number in range(options.repeats):
            theirs.append(bare(best, len(paths)))
            column = extract(source, {"image": config}, Path(folder) / f"store-{number}")[0]
            ours.append(column.inputs_per_s)
            shares.append(1 - column.waiting_fraction)
            print(f"  repeat {number}: this {ours[-1]:.2f}, bare loop {theirs[-1]:.2f} images a second")
    ray.shutdown()
    mine, peers = statistics.median(ours), statistics.median(theirs)
    print(f"{options.model}, {len(paths)} images, {device}, {dtype}, threads {options.threads}")
    print(f"this, whole job after start-up   {mine:8.2f} images a second")
    print(f"bare loop on decoded tensors     {peers:8.2f} images a second")
    print(f"ratio                            {mine / peers:8.2f}   (wanted: at least 0.95)")
    print(f"encoder's share of the wall time {statistics.median(shares):8.3f}")


if __name__ == "__main__":
    main()
