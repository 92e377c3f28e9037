"""The classifier: a small MLP whose every parameter carries a leading lane axis."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from trainables.sampling.streams import stream

AtLayer = Callable[[int, Tensor], Tensor]

"""What is done to a hidden layer's output (lanes, rows, width), given the layer's number from 1."""


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


class LaneMLP(nn.Module):
    """Independent MLPs side by side: hidden layers of `Linear -> Dropout -> ReLU`, then a linear output.

    One `baddbmm` a layer multiplies every lane, so that small models fill the machine together. Outputs are logits; the
    sigmoid of each is the probability of its class (Wolfe & Lundgaard 2019, section 3.3).

    Args:
        n_features: Length of an embedding.
        hidden: Width of each hidden layer.
        n_outputs: Outputs of each lane, its known classes; narrower lanes are padded to the widest with zero weights.
        seeds: Split seed of each lane, of which its initial weights are a function.
        n_residual: The first so many hidden layers add their input to their output where the two are equally wide
            (He et al. 2016, https://arxiv.org/abs/1512.03385).
        purpose: Of the random streams that the initial weights are drawn from.
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
        """Outputs (lanes, rows, outputs).

        Args:
            x: Embeddings (lanes, rows, features).
            keep: For each hidden layer a dropout mask (lanes, rows, width), already scaled by 1 / (1 - rate); None
                when predicting.
            at_layer: What is done to each hidden layer's output.
        """
        h = self.features(x, len(self.hidden), keep, at_layer)
        return torch.baddbmm(self.biases[-1], h, self.weights[-1])

    def features(
        self, x: Tensor, n_layers: int, keep: Sequence[Tensor] | None = None, at_layer: AtLayer | None = None
    ) -> Tensor:
        """Output of the last of the first `n_layers` hidden layers (lanes, rows, width); the rest as for `forward`."""
        for layer in range(n_layers):
            h = torch.baddbmm(self.biases[layer], x, self.weights[layer])
            # In place: a product's gradient needs its inputs, dropout's its mask, ReLU's its result.
            h = torch.relu_(h if keep is None else h.mul_(keep[layer]))
            x = h + x if self.residual[layer] else h
            x = x if at_layer is None else at_layer(layer + 1, x)
        return x

    def layers(self, lane: int) -> list[Layer]:
        """A copy of a lane's layers, the output's last."""
        residual = [*self.residual, False]
        return [
            Layer(weight.detach()[lane].clone(), bias.detach()[lane, 0].clone(), adds)
            for weight, bias, adds in zip(self.weights, self.biases, residual, strict=True)
        ]

    @torch.no_grad()
    def keep(self, lanes: Tensor) -> None:
        """Goes on with some of the lanes, given their places until now."""
        for parameter in self.parameters():
            parameter.data = parameter[lanes]


class Trunk:
    """The first hidden layers of trained models, which train no further.

    Args:
        model: The models; they are copied.
        n_layers: How many of their hidden layers, at least one.
    """

    def __init__(self, model: LaneMLP, n_layers: int) -> None:
        self._model, self._n_layers = copy.deepcopy(model).requires_grad_(False), n_layers
        self.width = model.hidden[n_layers - 1]

    def __call__(self, x: Tensor) -> Tensor:
        """Activations (lanes, rows, width) of embeddings (lanes, rows, features)."""
        return self._model.features(x, self._n_layers)

    def layers(self, lane: int) -> list[Layer]:
        """A copy of a lane's layers."""
        return self._model.layers(lane)[: self._n_layers]

    def keep(self, lanes: Tensor) -> None:
        """Goes on with some of the lanes, given their places until now."""
        self._model.keep(lanes)
