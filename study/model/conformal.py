"""Sets of labels with a guaranteed error rate, by split conformal prediction.

The set of an item holds every class whose logit reaches a limit; an empty set says "none". The limit follows from the
logits of *calibration items*: items of known classes that the classifier was neither trained nor chosen on. With an
error rate e, and for a new item that is exchangeable with the calibration items (drawn as they were, of a known class):

- the set holds its class with a probability of at least 1 - e, and at most 1 - e + 1 / (n + 1) without ties;
- so its set is empty, "none", with a probability of at most e;
- `p_known` is at most e with a probability of at most e, for any e: if items are called "none" where `p_known` is at
  most some other rate, at most this share of the items of known classes is called "none".

The guarantees are means over calibration items and new items together. They hold for items of known classes as a whole,
not for each class, and say nothing about items of other classes: how many of those get an empty set is to be measured.
Items in groups (`data.group`) are not exchangeable one by one: for them the rates hold only approximately.

References:
    Vovk, Gammerman & Shafer (2005), "Algorithmic Learning in a Random World", chapter 2.
    Sadinle, Lei & Wasserman (2019), "Least Ambiguous Set-Valued Classifiers with Bounded Error Levels",
    https://arxiv.org/abs/1609.00451: sets by one limit for all classes, which may be empty.
    Bates, Candès, Lei, Romano & Sesia (2023), "Testing for Outliers with Conformal p-Values",
    https://arxiv.org/abs/2104.08279: `p_known`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from study.errors import ModelError

_Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ConformalLimits:
    """What sets of labels need of the calibration items, each sorted: (items,).

    Attributes:
        own: Logit of the item's class.
        highest: Highest logit of the item.
    """

    own: _Floats
    highest: _Floats

    @classmethod
    def of(cls, logits: _Floats, target: npt.NDArray[np.integer]) -> ConformalLimits:
        """Return the limits by some items.

        Args:
            logits: (items, classes).
            target: Class of each item (items,); items of unknown classes, -1, are left out.

        Raises:
            ModelError: No item is of a known class.
        """
        known = np.flatnonzero(target >= 0)
        if len(known) == 0:
            raise ModelError("Calibration needs an item of a known class, got none: give more held-out items.")
        return cls(np.sort(logits[known, target[known]]), np.sort(logits[known].max(1)))

    def limit(self, error_rate: float) -> float:
        """Return the logit from which a class is in the set; -inf, so that every class is, with too few items.

        It is the k-th smallest of the n calibration items' own logits, k = floor((n + 1) error_rate); 1 / error_rate -
        1 items suffice.

        Args:
            error_rate: In (0, 1).

        Raises:
            ModelError: The rate is outside.
        """
        if not 0 < error_rate < 1:
            raise ModelError(f"The error rate must be above 0 and below 1, got {error_rate:g}.")
        k = math.floor((len(self.own) + 1) * error_rate + 1e-9)
        return float(self.own[k - 1]) if k else -math.inf

    def sets(self, logits: _Floats, error_rate: float) -> npt.NDArray[np.bool_]:
        """Return whether each class is in each item's set (items, classes); an empty set says "none".

        Args:
            logits: (items, classes).
            error_rate: Share of items of known classes whose set may lack their class, in (0, 1).

        Raises:
            ModelError: The rate is outside.
        """
        return np.asarray(logits >= self.limit(error_rate))

    def p_known(self, logits: _Floats) -> npt.NDArray[np.float64]:
        """Return the conformal p-value of being of a known class (items,): small for items that look unknown.

        It is the share of calibration items, the item itself included, whose highest logit is no higher.

        Args:
            logits: (items, classes).
        """
        lower = np.searchsorted(self.highest, logits.max(1), side="right")
        return np.asarray((1 + lower) / (len(self.highest) + 1))
