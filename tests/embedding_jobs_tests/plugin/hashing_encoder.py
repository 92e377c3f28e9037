"""A third party's encoder, as an installed package would provide it: hashed words, no weights, loads at once."""

import hashlib
import os
import time
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from embedding_jobs.encoders.config import CustomEncoderConfig
from embedding_jobs.encoders.protocol import Prepared


class HashingKind:
    """Each word adds one to one of `dimension` numbers (Weinberger et al. 2009).

    The environment may slow it down or crash it, for tests of what happens then.
    """

    modality: Literal["text", "image"] = "text"

    def describe(self, config: CustomEncoderConfig) -> dict[str, Any]:
        return {"kind": config.kind, "model": config.model, "dimension": config.options["dimension"]}

    def preprocessor(self, config: CustomEncoderConfig) -> "Words":
        return Words(int(config.options["dimension"]))

    def encoder(self, config: CustomEncoderConfig, device: str, n_threads: int) -> "Counter":
        return Counter(int(config.options["dimension"]), float(os.environ.get("HASHING_PAUSE_S", 0)))


class Words:
    def __init__(self, dimension: int) -> None:
        self.dimension = dimension

    def __call__(self, inputs: Sequence[str]) -> Prepared:
        rows, places = [], []
        for row, text in enumerate(inputs):
            for word in text.split():
                rows.append(row)
                places.append(int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest()) % self.dimension)
        arrays = {"rows": np.array(rows, int), "places": np.array(places, int), "n": np.array([len(inputs)])}
        return Prepared(arrays, [None] * len(inputs), [None] * len(inputs), len(rows))


class Counter:
    def __init__(self, dimension: int, pause_s: float) -> None:
        self.dimension = dimension
        self.pause_s = pause_s

    def __call__(self, prepared: Prepared) -> np.ndarray:
        if "HASHING_CRASH" in os.environ:
            os.abort()
        time.sleep(self.pause_s)
        counts = np.zeros((int(prepared.arrays["n"][0]), self.dimension), dtype=np.float32)
        np.add.at(counts, (prepared.arrays["rows"], prepared.arrays["places"]), 1.0)
        return counts


kind = HashingKind()
