"""What both networks need of torch: threads, the computation's type, a torchvision that can be imported."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.nn.utils.fusion import fuse_conv_bn_weights

from embedding_jobs.errors import EncoderError

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


def fold_batch_norms(model: Any, example: torch.Tensor) -> Any:
    """The network with each batch normalisation that follows a convolution folded into its weights.

    In evaluation mode both are linear, and one pass over the map is saved. Which normalisation follows which
    convolution is seen in a run; a network whose features are not the same afterwards is given back as it was.

    Args:
        model: A timm network in evaluation mode, float32.
        example: Images (images, 3, height, width) of the network's input size.

    References:
        Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
        (2018), section 3.2, https://arxiv.org/abs/1712.05877
    """
    folded = copy.deepcopy(model)
    made: dict[int, tuple[torch.nn.Conv2d, torch.Tensor]] = {}  # keeps the tensors, so that ids stay theirs
    pairs: dict[torch.nn.BatchNorm2d, torch.nn.Conv2d] = {}

    def after_convolution(module: torch.nn.Conv2d, inputs: Any, output: torch.Tensor) -> None:
        made[id(output)] = (module, output)

    def before_norm(module: torch.nn.BatchNorm2d, inputs: tuple[torch.Tensor, ...]) -> None:
        if id(inputs[0]) in made:
            pairs[module] = made[id(inputs[0])][0]

    hooks = [m.register_forward_hook(after_convolution) for m in folded.modules() if isinstance(m, torch.nn.Conv2d)]
    hooks += [m.register_forward_pre_hook(before_norm) for m in folded.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    with torch.inference_mode():
        expected = folded.forward_features(example)
    for hook in hooks:
        hook.remove()
    names = {module: name for name, module in folded.named_modules()}
    for norm, convolution in pairs.items():
        if norm.running_mean is None or norm.running_var is None:
            continue  # normalises by the batch in hand
        folded_weights = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        convolution.weight, convolution.bias = (torch.nn.Parameter(w, requires_grad=False) for w in folded_weights)
        parent, _, name = names[norm].rpartition(".")
        # timm's normalisation carries the activation after it.
        rest = [getattr(norm, part) for part in ("drop", "act") if hasattr(norm, part)]
        setattr(folded.get_submodule(parent), name, torch.nn.Sequential(*rest))
    with torch.inference_mode():
        error = (folded.forward_features(example) - expected).abs().max()
    return folded if error <= 1e-4 * expected.abs().max() else model


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


def gpu_memories() -> list[int]:
    """Bytes of each GPU that torch sees."""
    return [torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count())]
