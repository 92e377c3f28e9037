"""What both networks need from torch: threads, the type of the computation, a torchvision that can be imported."""

from __future__ import annotations

import copy
import importlib.util
import pickle
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.nn.utils.fusion import fuse_conv_bn_weights

from embedding_jobs.errors import EncoderError

_Batch = TypeVar("_Batch")


@lru_cache(maxsize=1)
def declare_torchvision_operators() -> Any:
    """Make `import torchvision` work with a torch that it was not built for. Call before that import.

    timm depends on torchvision, whose wheel on the package index is built for CUDA. With a CPU build of torch its
    library of operators does not load, and `import torchvision` fails with "operator torchvision::nms does not exist";
    so does everything in transformers that uses images. Nothing here calls these operators: declaring their schemas is
    enough for the import. If the library loads, nothing is done.

    Returns:
        The declaring library, which must live as long as the process; None if it is not needed.
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


def import_timm() -> Any:
    """Import timm, which imports torchvision."""
    declare_torchvision_operators()
    import timm
    import timm.data

    return timm


def compute_dtype(requested: str, device: str) -> torch.dtype:
    """Return the type in which a network computes on `device`.

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


def read_tensors(path: Path) -> Mapping[str, torch.Tensor]:
    """Read a file of weights by name, safetensors or PyTorch's own format, without running code of the file.

    Raises:
        EncoderError: The file cannot be read, or holds something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise EncoderError(f"the weights in {path} must be readable without running code: {reason}") from error
    if not isinstance(found, Mapping) or not all(isinstance(one, torch.Tensor) for one in found.values()):
        raise EncoderError(f"{path} must hold tensors by name, got {type(found).__name__}; save a `state_dict()`")
    return found


def fold_batch_norms(model: Any, example: torch.Tensor) -> Any:
    """Fold each batch normalisation that follows a convolution into the convolution's weights.

    In evaluation mode both are linear, and folding saves one pass over the feature map. One run of the network shows
    which normalisation follows which convolution. If the features differ afterwards, the network is returned unchanged.

    Args:
        model: A timm network in evaluation mode, float32.
        example: Images (images, 3, height, width) of the network's input size.

    References:
        Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
        (2018), section 3.2, https://arxiv.org/abs/1712.05877
    """
    folded = copy.deepcopy(model)
    made: dict[int, tuple[torch.nn.Conv2d, torch.Tensor]] = {}  # keeps the tensors alive, so that their ids stay valid
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
            continue  # normalises by the statistics of the current batch
        folded_weights = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        convolution.weight, convolution.bias = (torch.nn.Parameter(w, requires_grad=False) for w in folded_weights)
        parent, _, name = names[norm].rpartition(".")
        # timm's normalisation includes the activation that follows it.
        rest = [getattr(norm, part) for part in ("drop", "act") if hasattr(norm, part)]
        setattr(folded.get_submodule(parent), name, torch.nn.Sequential(*rest))
    with torch.inference_mode():
        error = (folded.forward_features(example) - expected).abs().max()
    return folded if error <= 1e-4 * expected.abs().max() else model


class Threads:
    """Run batches in parallel, each on one thread.

    The threads of one operation wait for each other at its end. On a busy machine the slowest one decides: two threads
    were measured at a tenth of the speed of one. Parallel batches never wait, and the result of a batch does not depend
    on the number of threads.
    """

    def __init__(self, n_threads: int) -> None:
        torch.set_num_threads(1)
        self._pool = ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,))

    def run(self, function: Callable[[_Batch], None], batches: Sequence[_Batch]) -> None:
        """Call `function` on every batch, without gradients; raises the first error."""

        def call(batch: _Batch) -> None:
            with torch.inference_mode():  # is a setting of each thread
                function(batch)

        for _ in self._pool.map(call, batches):
            pass


def gpu_memories() -> list[int]:
    """Return the memory in bytes of each GPU that torch sees."""
    return [torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count())]
