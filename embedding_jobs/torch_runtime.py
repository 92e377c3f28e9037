"""What both networks need of torch: threads, the computation's type, a torchvision that can be imported."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch

from embedding_jobs.encoders import EncoderError

Batch = TypeVar("Batch")


@lru_cache(maxsize=1)
def declare_torchvision_operators() -> Any:
    """Make `import torchvision` possible beside a torch that it was not built for. Call before that import.

    timm depends on torchvision, and the wheel of the package index is built for CUDA. Beside a CPU build of torch
    its library of operators does not load, and `import torchvision` then fails with "operator torchvision::nms does
    not exist", as does everything of transformers that touches images. Nothing here calls these operators: declaring
    their schemas is enough for the import. Where the library loads, nothing is done.

    Returns:
        The declaring library, which must stay alive as long as the process; None where none was needed.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return None
    for library in Path(next(iter(spec.submodule_search_locations))).glob("_C*.so"):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            continue
        return None
    declared = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return declared


def compute_dtype(requested: str, device: str) -> torch.dtype:
    """The type in which a network computes on `device`.

    Raises:
        EncoderError: `requested` is not a known type.
    """
    if requested == "auto":
        if torch.device(device).type == "cpu":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if requested not in known:
        raise EncoderError(f"`compute_dtype` must be auto, {', '.join(known)}, got {requested!r}")
    return known[requested]


class Threads:
    """Runs batches side by side, each on one thread.

    Threads inside an operation wait for one another at its end: on a machine that is also doing something else the
    slowest decides, and two threads were seen to make a tenth of the speed of one. Batches side by side never wait,
    and what a batch computes does not depend on how many threads there are.
    """

    def __init__(self, n_threads: int) -> None:
        torch.set_num_threads(1)
        self._pool = ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,))

    def run(self, function: Callable[[Batch], None], batches: Sequence[Batch]) -> None:
        """Call `function` on every batch, without gradients; raises what the first of them raises."""

        def call(batch: Batch) -> None:
            with torch.inference_mode():  # is set for each thread alone
                function(batch)

        for _ in self._pool.map(call, batches):
            pass
