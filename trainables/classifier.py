"""The classifier: a small MLP whose every parameter carries a leading lane axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from trainables.splits import stream


class LaneMLP(nn.Module):
    """Independent MLPs side by side: hidden layers of `Linear -> Dropout -> ReLU`, then a linear output.

    One `baddbmm` a layer multiplies every lane, so that small models fill the machine together. Outputs are logits; the
    sigmoid of each is the probability of its class (Wolfe & Lundgaard 2019, section 3.3).

    Args:
        n_features: Length of an embedding.
        hidden: Width of each hidden layer.
        n_classes: Known classes of each lane; narrower lanes are padded to the widest with zero weights.
        seeds: Split seed of each lane, of which its initial weights are a function.
    """

    def __init__(self, n_features: int, hidden: Sequence[int], n_classes: Sequence[int], seeds: Sequence[int]) -> None:
        super().__init__()
        widths = [n_features, *hidden]
        self.hidden = tuple(hidden)
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        streams = [stream(seed, "weights") for seed in seeds]
        for layer, fan_in in enumerate(widths):
            is_output = layer == len(hidden)
            fan_out = max(n_classes) if is_output else hidden[layer]
            weight = torch.zeros(len(seeds), fan_in, fan_out)
            bias = torch.zeros(len(seeds), 1, fan_out)
            bound = fan_in**-0.5  # as torch.nn.Linear draws both
            for lane, rng in enumerate(streams):
                width = n_classes[lane] if is_output else fan_out
                weight[lane, :, :width] = torch.from_numpy(rng.uniform(-bound, bound, (fan_in, width)))
                bias[lane, 0, :width] = torch.from_numpy(rng.uniform(-bound, bound, width))
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(bias))

    def forward(
        self,
        x: Tensor,
        keep: Sequence[Tensor] | None = None,
        at_layer: Callable[[int, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Logits (lanes, rows, classes).

        Args:
            x: Embeddings (lanes, rows, features).
            keep: For each hidden layer a dropout mask (lanes, rows, width), already scaled by 1 / (1 - rate); None
                when predicting.
            at_layer: What is done to each hidden layer's output, given its number from 1.
        """
        for layer in range(len(self.hidden)):
            x = torch.baddbmm(self.biases[layer], x, self.weights[layer])
            # In place: a product's gradient needs its inputs, dropout's its mask, ReLU's its result.
            x = torch.relu_(x if keep is None else x.mul_(keep[layer]))
            x = x if at_layer is None else at_layer(layer + 1, x)
        return torch.baddbmm(self.biases[-1], x, self.weights[-1])

    @torch.no_grad()
    def keep(self, lanes: Tensor) -> None:
        """Goes on with some of the lanes, given their places until now."""
        for parameter in self.parameters():
            parameter.data = parameter[lanes]
