"""The classifier: a small MLP whose every parameter has a leading lane axis."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from trainables.sampling.streams import stream

# Transforms a hidden layer's output (lanes, rows, width), given the layer's number from 1.
AtLayer = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True)
class Layer:
    """One lane's weights of one layer.

    Attributes:
        weight: (inputs, outputs).
        bias: (outputs,).
        residual: Whether the layer's input is added to its output, after the ReLU.
    """

    weight: Tensor
    bias: Tensor
    residual: bool

    def hidden(self, x: Tensor) -> Tensor:
        """Compute the output (items, outputs) of a hidden layer, without dropout, from (items, inputs)."""
        h = torch.addmm(self.bias, x, self.weight).relu_()
        return h + x if self.residual else h


class LaneMLP(nn.Module):
    """Independent MLPs side by side: hidden layers of `Linear -> Dropout -> ReLU`, then a linear output.

    One `baddbmm` per layer computes all lanes, so that small models together use the whole device. Outputs are logits;
    the sigmoid of each is the probability of its class (Wolfe & Lundgaard 2019, section 3.3).

    Args:
        n_features: Length of an embedding.
        hidden: Width of each hidden layer.
        n_outputs: Number of outputs of each lane, its known classes; narrower lanes are padded with zero weights.
        seeds: Split seed of each lane, which determines its initial weights.
        n_residual: Number of hidden layers, from the first, that add their input to their output where the two are
            equally wide (He et al. 2016, https://arxiv.org/abs/1512.03385).
        purpose: Purpose of the random streams that the initial weights are drawn from.
    """

    def __init__(
        self,
        n_features: int,
        hidden: Sequence[int],
        n_outputs: Sequence[int],
        seeds: Sequence[int],
        n_residual: int = 0,
        purpose: str = "weights",
    ) -> None:
        super().__init__()
        widths = [n_features, *hidden]
        self.hidden = tuple(hidden)
        self.residual = [layer < n_residual and wide == high for layer, (wide, high) in enumerate(pairwise(widths))]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        streams = [stream(seed, purpose) for seed in seeds]
        for layer, fan_in in enumerate(widths):
            is_output = layer == len(hidden)
            fan_out = max(n_outputs) if is_output else hidden[layer]
            weight = torch.zeros(len(seeds), fan_in, fan_out)
            bias = torch.zeros(len(seeds), 1, fan_out)
            bound = fan_in**-0.5  # as torch.nn.Linear draws both
            for lane, rng in enumerate(streams):
                width = n_outputs[lane] if is_output else fan_out
                weight[lane, :, :width] = torch.from_numpy(rng.uniform(-bound, bound, (fan_in, width)))
                bias[lane, 0, :width] = torch.from_numpy(rng.uniform(-bound, bound, width))
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(bias))

    def forward(self, x: Tensor, keep: Sequence[Tensor] | None = None, at_layer: AtLayer | None = None) -> Tensor:
        """Compute the outputs (lanes, rows, outputs).

        Args:
            x: Embeddings (lanes, rows, features).
            keep: For each hidden layer a dropout mask (lanes, rows, width), already scaled by 1 / (1 - rate); None
                without dropout.
            at_layer: Transforms each hidden layer's output; None for no change.
        """
        h = self.features(x, len(self.hidden), keep, at_layer)
        return torch.baddbmm(self.biases[-1], h, self.weights[-1])

    def features(
        self, x: Tensor, n_layers: int, keep: Sequence[Tensor] | None = None, at_layer: AtLayer | None = None
    ) -> Tensor:
        """Compute the output of hidden layer `n_layers` (lanes, rows, width); other arguments as in `forward`."""
        for layer in range(n_layers):
            h = torch.baddbmm(self.biases[layer], x, self.weights[layer])
            # In place: the gradient of a product needs its inputs, that of dropout its mask, that of ReLU its result.
            h = torch.relu_(h if keep is None else h.mul_(keep[layer]))
            x = h + x if self.residual[layer] else h
            x = x if at_layer is None else at_layer(layer + 1, x)
        return x

    def layers(self, lane: int) -> list[Layer]:
        """Return a copy of a lane's layers, the output layer last."""
        residual = [*self.residual, False]
        return [
            Layer(weight.detach()[lane].clone(), bias.detach()[lane, 0].clone(), adds)
            for weight, bias, adds in zip(self.weights, self.biases, residual, strict=True)
        ]

    @torch.no_grad()
    def keep(self, lanes: Tensor) -> None:
        """Keep some of the lanes, given their positions."""
        for parameter in self.parameters():
            parameter.data = parameter[lanes]


class Trunk:
    """The first hidden layers of trained models, frozen.

    Args:
        model: The models; they are copied.
        n_layers: Number of hidden layers, at least one.
    """

    def __init__(self, model: LaneMLP, n_layers: int) -> None:
        self._model, self._n_layers = copy.deepcopy(model).requires_grad_(False), n_layers
        self.width = model.hidden[n_layers - 1]

    def __call__(self, x: Tensor) -> Tensor:
        """Compute activations (lanes, rows, width) of embeddings (lanes, rows, features)."""
        return self._model.features(x, self._n_layers)

    def layers(self, lane: int) -> list[Layer]:
        """Return a copy of a lane's layers."""
        return self._model.layers(lane)[: self._n_layers]

    def keep(self, lanes: Tensor) -> None:
        """Keep some of the lanes, given their positions."""
        self._model.keep(lanes)
