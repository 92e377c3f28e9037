"""Order items for labelling: the least confident predictions first, near-duplicates of them later."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# Candidates per place at the top: the least confident items.
_POOL_FACTOR = 20


def rank(
    logit: npt.NDArray[np.floating],
    is_none: npt.NDArray[np.bool_],
    embeddings: npt.NDArray[np.float32],
    n_top: int,
) -> npt.NDArray[np.int64]:
    """Return the items in the order in which to label them.

    Items predicted "none" come before all others. Within each of the two groups, the first places are filled one by
    one, each with the item of the largest product of doubt and distance: doubt is 1 - confidence, distance is
    1 - cosine similarity to the nearest item already placed. A near-duplicate of a placed item has almost no distance,
    so it does not follow it. The other items are sorted by rising confidence. Logits tell items apart whose confidence
    rounds to 1.

    Args:
        logit: Logit of each item's confidence (items,).
        is_none: Whether "none" is predicted (items,).
        embeddings: (items, features).
        n_top: Number of places that are filled by doubt and distance.

    Returns:
        Index of every item, in the order of labelling (items,).

    References:
        Gonzalez, "Clustering to Minimize the Maximum Intercluster Distance" (1985),
        https://doi.org/10.1016/0304-3975(85)90224-5: farthest-first; Sener and Savarese, "Active Learning for
        Convolutional Neural Networks: A Core-Set Approach" (2018), https://arxiv.org/abs/1708.00489.
    """
    order = np.argsort(logit, kind="stable")
    ranked: list[npt.NDArray[np.int64]] = []
    above = np.empty((0, embeddings.shape[1]), dtype=np.float32)
    for group in (order[is_none[order]], order[~is_none[order]]):
        n_places = min(n_top, len(group))
        pool = group[: _POOL_FACTOR * n_places]
        directions = _directions(embeddings[pool])
        doubt = np.exp(-np.logaddexp(0, logit[pool].astype(np.float64)))
        taken = _farthest_first(doubt, directions, above, n_places)
        ranked += [group[taken], np.delete(group, taken)]
        above = directions[taken]
        n_top -= n_places
    return np.concatenate(ranked)


def _farthest_first(
    doubt: npt.NDArray[np.float64], directions: npt.NDArray[np.float32], above: npt.NDArray[np.float32], n_places: int
) -> list[int]:
    """Choose items of a pool one by one, by doubt times distance to the items chosen before and to those above."""
    distance = 1 - (directions @ above.T).max(1) if len(above) and n_places else np.full(len(directions), 2.0)
    taken: list[int] = []
    for _ in range(n_places):
        value = doubt * np.maximum(distance, 0)
        value[taken] = -1
        taken.append(int(np.argmax(value)))
        distance = np.minimum(distance, 1 - directions @ directions[taken[-1]])
    return taken


def _directions(embeddings: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the embeddings with length 1; an embedding of zeros stays as it is."""
    length = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.asarray(embeddings / np.where(length > 0, length, 1), dtype=np.float32)
