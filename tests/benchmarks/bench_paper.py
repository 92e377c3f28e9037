"""A study at the paper's scale against a plain loop: five methods x 10 splits, extrapolated from a measured part.

    python tests/benchmarks/bench_paper.py --threads 2
    python tests/benchmarks/bench_paper.py --cuda-graph --precision tf32    # with a GPU

44,446 random items, of which 4,444 train, 4,864 inputs, 171 classes, 576 epochs, 24 evaluations. A pack has the
10 splits of a method; the plain loop is the peer of bench_trials.py, one trial after the other on the same device,
without Ray. For both, the shortest training, a further epoch and a further evaluation are measured.
"""

import argparse
import time
from dataclasses import replace

import torch
from bench_study_cost import N_SPLITS, PAPER, in_words, pack_s, paper_context
from bench_trials import METHODS, peer_trainable
from rich.console import Console
from rich.table import Table

from trainables.packs.cost import PackCost, measure_pack
from trainables.packs.pack import PackContext
from trainables.records.types import TEST, Candidate, Pack, SplitId


def plain_cost(context: PackContext, pack: Pack) -> PackCost:
    """Return the cost of one trial of the pack in the plain loop."""
    config = {"split": 0, "method": pack.candidate.method, "params": dict(pack.candidate.params)}

    def seconds(epochs: int, every: int) -> float:
        settings = replace(context.settings, epochs=epochs, evaluate_every_epochs=every)
        began_s = time.perf_counter()
        peer_trainable(config, context.embeddings, context.labels, settings, report=lambda _: None)
        return time.perf_counter() - began_s

    seconds(1, 1)
    shortest_s, longer_s, evaluated_s = seconds(1, 1), seconds(4, 4), seconds(4, 1)
    return PackCost(pack, shortest_s, (longer_s - shortest_s) / 3, 0, (evaluated_s - longer_s) / 3, 0, 0, 0, "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", choices=["float32", "tf32", "bfloat16"], default="float32")
    parser.add_argument("--cuda-graph", action="store_true")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    settings = replace(PAPER, precision=given.precision, cuda_graph=given.cuda_graph)
    context = paper_context(given.threads, settings)
    table = Table("method", "a trial of the pack, s", "a plain trial, s", "ratio")
    total_s = plain_total_s = 0.0
    for method in given.methods:
        pack = Pack(TEST, Candidate.of(method, METHODS[method]), tuple(map(SplitId, range(N_SPLITS))))
        cost = measure_pack(context, pack)
        own_s, plain_s = pack_s(cost), N_SPLITS * pack_s(plain_cost(context, pack))
        total_s, plain_total_s = total_s + own_s, plain_total_s + plain_s
        numbers = (f"{own_s / N_SPLITS:.1f}", f"{plain_s / N_SPLITS:.1f}", f"{plain_s / own_s:.1f}")
        table.add_row(method, *numbers)
    Console().print(table)
    print(f"{cost.device}, {given.precision}, {'CUDA graphs' if given.cuda_graph else 'no CUDA graphs'}")
    print(f"the study {in_words(total_s)}, the plain loop {in_words(plain_total_s)}: {plain_total_s / total_s:.1f}")


if __name__ == "__main__":
    main()
