"""AdamW over stacked parameters, with one learning rate and weight decay per lane."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor
from torch.optim.adamw import adamw


class LaneAdamW:
    """AdamW with a learning rate per lane, by the fused kernel.

    Neighbouring lanes with equal settings share one call: a stack of equal lanes needs one call, whatever its size.

    Args:
        parameters: Stacked parameters, each (lanes, ...).
        weight_decay: Decoupled weight decay of each lane.
        groups: A value for each lane; neighbours with equal values have the same learning rate at every step.

    References:
        Loshchilov & Hutter, "Decoupled Weight Decay Regularization" (2019), https://arxiv.org/abs/1711.05101
    """

    def __init__(self, parameters: Sequence[Tensor], weight_decay: Sequence[float], groups: Sequence[object]) -> None:
        self._parameters = list(parameters)
        self._mean = [torch.zeros_like(parameter) for parameter in parameters]
        self._square = [torch.zeros_like(parameter) for parameter in parameters]
        self._step = torch.zeros((), device=parameters[0].device)
        self._lanes = list(zip(groups, weight_decay, strict=True))

    def step(self, rates: Sequence[float | Tensor]) -> None:
        """Take one step from the parameters' gradients, and clear them.

        Args:
            rates: Learning rate of each lane; in a CUDA graph, tensors in the device's memory.
        """
        self._step += 1
        gradients = [parameter.grad for parameter in self._parameters]
        start = 0
        for (_, weight_decay), members in groupby(self._lanes):
            stop = start + len(list(members))
            # The kernel itself counts a step for each call and parameter: each call gets its own counts.
            counts = [self._step - 1 for _ in self._parameters]
            adamw(
                [parameter.detach()[start:stop] for parameter in self._parameters],
                [gradient[start:stop] for gradient in gradients if gradient is not None],
                [mean[start:stop] for mean in self._mean],
                [square[start:stop] for square in self._square],
                [],
                counts,
                fused=True,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=rates[start],
                weight_decay=weight_decay,
                eps=1e-8,
                maximize=False,
            )
            start = stop
        for parameter in self._parameters:
            parameter.grad = None

    def keep(self, parameters: Sequence[Tensor], lanes: Sequence[int]) -> None:
        """Keep some of the lanes, given their parameters and their positions."""
        self._parameters = list(parameters)
        self._mean = [mean[lanes] for mean in self._mean]
        self._square = [square[lanes] for square in self._square]
        self._lanes = [self._lanes[lane] for lane in lanes]
