"""Turn hidden states into vectors: pooling over the tokens, dense layers, length 1."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from embedding_jobs.encoders.text_modules import DenseLayer, Mode, TextPooling
from embedding_jobs.encoders.torch_runtime import read_tensors
from embedding_jobs.errors import EncoderError


class TextHead:
    """What follows the network, in float32.

    Attributes:
        dimension: Length of a vector.
    """

    def __init__(self, pooling: TextPooling, hidden_size: int, n_prompt: int, device: torch.device) -> None:
        """Load the dense layers.

        Args:
            pooling: What to do.
            hidden_size: Length of a hidden state.
            n_prompt: Tokens at the start of every text that are not pooled.
            device: Where to compute.

        Raises:
            EncoderError: A dense layer does not fit what comes before it, or its weights cannot be read.
        """
        self._pooling, self._n_prompt = pooling, n_prompt
        size = hidden_size * len(pooling.modes) * pooling.n_layers
        self._dense = []
        for layer in pooling.dense:
            if layer.n_inputs != size:
                raise EncoderError(
                    f"the Dense layer in {layer.weights.parent} must take the {size} numbers before it, takes "
                    f"{layer.n_inputs}: download the model again, or set `pooling`"
                )
            self._dense.append(_loaded(layer).to(device))
            size = layer.n_outputs
        self.dimension = min(size, pooling.dimension or size)

    def __call__(self, states: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        """Return vectors (texts, dimension).

        Args:
            states: Hidden states of the layers, each (texts, tokens, hidden size).
            mask: True for each text's own tokens (texts, tokens), which come first; None: all are.
        """
        if self._n_prompt:
            own = torch.ones(states[0].shape[:2], dtype=torch.bool, device=states[0].device) if mask is None else mask
            mask = own & (torch.arange(own.shape[1], device=own.device) >= self._n_prompt)
        pooled = [pool(state.float(), mask, mode) for state in states for mode in self._pooling.modes]
        vectors = torch.cat(pooled, dim=1)
        for layer in self._dense:
            vectors = layer(vectors)
        if self._pooling.normalize:
            vectors = torch.nn.functional.normalize(vectors, dim=1)
        return vectors[:, : self.dimension]


def pool(values: Tensor, mask: Tensor | None, mode: Mode) -> Tensor:
    """Pool the hidden states of one layer over the tokens.

    Args:
        values: float32 (texts, tokens, hidden size).
        mask: True for the tokens that count (texts, tokens), in one stretch; None: all do.
        mode: `weightedmean` weighs a token by its position in the text, from 1 (Muennighoff 2022,
            https://arxiv.org/abs/2202.08904); `mean_sqrt_len_tokens` divides the sum by the root of the number.

    Returns:
        float32 (texts, hidden size); zeros, or the first token for `cls`, where no token counts.
    """
    if mode == "mean" and mask is None:
        return values.mean(dim=1)
    width = values.shape[1]
    if mask is None:
        mask = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
    if mode == "max":
        highest = values.masked_fill(~mask[:, :, None], -torch.inf).amax(dim=1)
        return highest.masked_fill(~mask.any(dim=1, keepdim=True), 0.0)
    if mode in ("cls", "lasttoken"):
        ones = mask.int()
        place = ones.argmax(dim=1) if mode == "cls" else width - 1 - ones.flip(1).argmax(dim=1)
        taken = values[torch.arange(len(values), device=values.device), place]
        return taken if mode == "cls" else taken * mask.any(dim=1, keepdim=True)
    weights = mask.float()
    if mode == "weightedmean":
        weights = weights * torch.arange(1, width + 1, device=values.device)
    total = weights.sum(dim=1, keepdim=True).clamp(min=1e-9)
    return (values * weights[:, :, None]).sum(dim=1) / (total.sqrt() if mode == "mean_sqrt_len_tokens" else total)


def _loaded(layer: DenseLayer) -> torch.nn.Sequential:
    linear = torch.nn.Linear(layer.n_inputs, layer.n_outputs, bias=layer.bias)
    tensors = {name.removeprefix("linear."): value.float() for name, value in read_tensors(layer.weights).items()}
    try:
        linear.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise EncoderError(f"the weights in {layer.weights} must be those of its config.json: {reason}") from error
    return torch.nn.Sequential(linear, getattr(torch.nn, layer.activation)()).eval().requires_grad_(False)
