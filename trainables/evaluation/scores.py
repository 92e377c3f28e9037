"""Scores of how unknown an item is: higher for items whose class has no training item. All need no further training.

| score | from | reference |
|---|---|---|
| `max_probability` | the highest logit, negative | Hendrycks & Gimpel (2017), https://arxiv.org/abs/1610.02136 |
| `joint_energy` | all logits | Wang et al. (2021), https://arxiv.org/abs/2111.12797 |
| `gen` | all logits | Liu, Lochman & Zach (2023), "GEN: Pushing the Limits of Softmax-Based OOD Detection", CVPR |
| `knn` | a layer, and that of the training items | Sun et al. (2022), https://arxiv.org/abs/2204.06507 |
| `relative_mahalanobis` | the same | Ren et al. (2021), https://arxiv.org/abs/2106.09022 |

With one sigmoid a class, the probability is a monotone function of the logit, so the highest probability and the
highest logit (`max_logit`) order items alike: they are one score here, which a record's `logit` holds. The two of a
layer are computed on the last hidden layer and on the input; on the input they depend on the split alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

# Memory of one chunk's values: logits in float64, or similarities to the training items.
_CHUNK_BYTES = 64 * 2**20

# Exponent of GEN as published; it sums over a tenth of the classes (published: 100 of 1,000), but at least ten.
_GAMMA, _TOP_FRACTION, _FEWEST_TOP = 0.1, 0.1, 10

# The neighbour whose distance counts, as published for training sets of about 50,000 items; nearer among fewer.
_K = 50

# Training items whose values are gathered at once.
_ROWS = 1024

# Most training items among which neighbours are searched.
_MOST_REFERENCES = 10_000

# Returns the values of a layer (items, features) for item indices (items,).
LayerValues = Callable[[Tensor], Tensor]


def logit_scores(logits: Tensor) -> Mapping[str, Tensor]:
    """Compute the scores that follow from logits alone, by name: float64 (items,) each.

    `joint_energy` is -sum_k log(1 + exp f_k). `gen` is the generalised entropy sum_k (p_k (1 - p_k))^0.1 over the most
    probable tenth of the classes, at least ten; p_k is the class's own sigmoid here, where Liu et al. have a softmax.
    More classes would be noise: each of many improbable ones counts about p_k^0.1, 0.25 for a millionth.

    Args:
        logits: (items, classes).
    """
    energy, entropy, n_classes = [], [], logits.shape[1]
    n_top = min(n_classes, max(_FEWEST_TOP, math.ceil(_TOP_FRACTION * n_classes)))
    for chunk in logits.split(max(1, _CHUNK_BYTES // (8 * n_classes))):
        exact = chunk.double()
        energy.append(logsigmoid(-exact).sum(-1))
        top = exact.topk(n_top, dim=-1, sorted=False).values
        entropy.append((_GAMMA * (logsigmoid(top) + logsigmoid(-top))).exp().sum(-1))
    return {"joint_energy": torch.cat(energy), "gen": torch.cat(entropy)}


def layer_scores(values: LayerValues, train: Tensor, classes: Tensor, items: Tensor) -> Mapping[str, Tensor]:
    """Compute the scores that compare items with the training items in one layer, by name: (items,) each.

    They cost 2 x items x features x (training items + classes) operations, and for the covariance training items x
    features^2 + features^3 / 3 more; no more than 10,000 training items count in the first term.

    Args:
        values: Returns the layer's values.
        train: Indices of the training items (training items,).
        classes: Their classes, 0 and up (training items,).
        items: Indices of the items to score (items,).
    """
    distance, neighbour = RelativeMahalanobis(values, train, classes), NearestNeighbour(values, train)
    pairs = []
    for rows in items.split(max(1, _CHUNK_BYTES // (4 * min(len(train), _MOST_REFERENCES) + 8 * distance.n_features))):
        x = values(rows)
        pairs.append((neighbour(x), distance(x)))
    knn, mahalanobis = (torch.cat(scores) for scores in zip(*pairs, strict=True))
    return {"knn": knn, "relative_mahalanobis": mahalanobis}


class NearestNeighbour:
    """The distance to the k-th nearest training item, of values normalised to length 1.

    Equals sqrt(2 - 2 x the k-th highest cosine); k is 50, or the square root of the number of training items if that is
    less. Of more than 10,000 training items, evenly spaced ones are compared.

    Args:
        values: Returns the layer's values.
        train: Indices of the training items (training items,).
    """

    def __init__(self, values: LayerValues, train: Tensor) -> None:
        self._train = normalize(values(train[:: math.ceil(len(train) / _MOST_REFERENCES)]))
        self.k = min(_K, math.isqrt(len(self._train)))

    def __call__(self, x: Tensor) -> Tensor:
        """Compute the score of items (items, features): (items,)."""
        cosine = normalize(x) @ self._train.T
        return (2 - 2 * cosine.topk(self.k, dim=-1).values[:, -1]).clamp_min(0).sqrt()


class RelativeMahalanobis:
    """The distance to the nearest class minus that to all training items, by Mahalanobis distances.

    min_k (x - m_k)' S^-1 (x - m_k) - (x - m)' S_0^-1 (x - m), where m_k are the classes' means and m that of all. S is
    the covariance within classes, shrunk towards the multiple of the identity that has its trace, by the share of
    Ledoit & Wolf: with more features than items it has no inverse otherwise. S_0 = S + B, where B is the covariance of
    the class means, so that both terms are shrunk alike; without shrinkage these are the published two.

    With B = U U', where U has the columns sqrt(n_k / n) (m_k - m), and by Woodbury's identity, the difference depends
    on t = U' S^-1 (x - m) alone. An item costs features x classes operations instead of features^2, and the large part
    that both distances have in common never appears. The covariance is inverted in float64.

    NaN if the items of every class are equal.

    Args:
        values: Returns the layer's values.
        train: Indices of the training items (training items,).
        classes: Their classes, 0 and up (training items,).

    Attributes:
        n_features: Width of the layer.
        shrinkage: Share of the identity in S, in [0, 1].

    References:
        Ledoit & Wolf, "A Well-Conditioned Estimator for Large-Dimensional Covariance Matrices" (2004),
        https://doi.org/10.1016/S0047-259X(03)00096-4
    """

    def __init__(self, values: LayerValues, train: Tensor, classes: Tensor) -> None:
        n, n_features = len(train), values(train[:1]).shape[1]
        sizes = torch.bincount(classes).double()
        means = torch.zeros(len(sizes), n_features, dtype=torch.float64, device=train.device)
        covariance = means.new_zeros(n_features, n_features)
        chunks = list(zip(train.split(_ROWS), classes.split(_ROWS), strict=True))
        for rows, own in chunks:
            means.index_add_(0, own, values(rows).double())
        self.n_features, self._mean = n_features, means.sum(0) / n
        there = sizes > 0
        means = means[there] / sizes[there, None]
        place = there.cumsum(0) - 1
        fourth = 0.0
        for rows, own in chunks:
            within = values(rows).double() - means[place[own]]
            covariance.addmm_(within.T, within)
            fourth += float(within.square().sum(-1).square().sum())
        covariance /= n
        scale = covariance.trace() / n_features
        squares = float(torch.linalg.vector_norm(covariance)) ** 2
        away = squares - n_features * float(scale) ** 2  # squared distance of the covariance from its target
        noise = (fourth / n - squares) / n
        self.shrinkage = min(1.0, noise / away) if away > 0 else 1.0
        covariance *= 1 - self.shrinkage
        covariance.diagonal().add_(self.shrinkage * scale)
        self._root = (sizes[there] / n).sqrt()
        spread = (means - self._mean).T * self._root  # U, (features, classes)
        factor, failed = torch.linalg.cholesky_ex(covariance)
        del covariance
        self._to_t = torch.cholesky_solve(spread, factor) if not failed else spread * math.nan
        gram = spread.T @ self._to_t
        self._own = gram.diagonal() / self._root.square()
        background = torch.eye(len(gram), dtype=gram.dtype, device=gram.device) + gram
        self._background = torch.linalg.inv(background) if not failed else background * math.nan
        self._mean, self._to_t = self._mean.float(), self._to_t.float()

    def __call__(self, x: Tensor) -> Tensor:
        """Compute the score of items (items, features): float64 (items,)."""
        t = ((x - self._mean) @ self._to_t).double()
        nearest = (self._own - 2 * t / self._root).amin(-1)
        return nearest + ((t @ self._background) * t).sum(-1)
