"""A random split, as a study of the design `random` makes it."""

import numpy as np

from trainables.records.types import Design
from trainables.sampling.splits import Split, SplitItems, SplitRules, outer_split


def random_split(n_items: int, train_fraction: float, seed: int) -> Split:
    """Draw the training items of a split; all others are validated."""
    return outer_split(SplitItems(np.zeros(n_items, np.int64)), SplitRules(Design.RANDOM, train_fraction), seed)
