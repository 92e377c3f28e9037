"""Make the built-in demonstration catalogue: products with a title, a description, an image and a category.

The categories form families of five that share words, materials and outlines, so that a classifier confuses the
categories of a family. A title often omits the product's name, and the description gives only weaker cues. The last
two categories of each family are so rare that a small training split misses some of them: the "none" items. A few
products are filed under another category of their family, as in any real catalogue. All products are invented.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from study.errors import RunError

if TYPE_CHECKING:
    from PIL.Image import Image

_T = TypeVar("_T")

# Increase it when the same seed and size give other bytes, so that older catalogues are made again.
_VERSION = 1

# Fraction of the products, outside the rare categories, that are filed under another category of their family.
_LABEL_NOISE = 0.04

# How hard the catalogue is, as probabilities: the title names the product (else the family); the title has no noun;
# the first sentence of the description names the product; a cue is from another category of the family; there is a
# second cue; the description mentions another category; the image shows another category.
_TITLE_NAMES, _TITLE_BARE, _OPENING_NAMES = 0.68, 0.12, 0.4
_CUE_ASTRAY, _SECOND_CUE, _MENTION, _PICTURE_ASTRAY = 0.09, 0.75, 0.15, 0.15

_TABLE, _IMAGES, _MARK = "products.parquet", "images", "catalogue.json"

_IMAGE_SIZE = 64  # pixels

_N_USUAL = 3  # categories per family that are not rare

# First words that all families share, one list per line; then the families.
# A family: its name, nouns that fit each of its categories, materials; then cues that its categories share.
# A category: its name, its own nouns; then its own cues. The most common categories come first.
_SHARED_WORDS, *_FAMILIES = (files("study.demo") / "vocabulary.txt").read_text(encoding="utf-8").split("# ")

# Colours have names that fit a text and that Pillow knows.
_WORDS = {name: words.split("; ") for name, words in (line.split(": ") for line in _SHARED_WORDS.split("\n") if line)}

# fmt: off
# Outlines, in units of a product's half width and half height from its centre, y downwards.
_BODIES = [((-1, -0.2), (0.2, -1), (1, 0.2), (1, 1), (-1, 1)), ((-0.4, -1), (0.4, -1), (1, 1), (-1, 1)),
    ((-1, -1), (1, -1), (0.6, 1), (-0.6, 1)), ((-1, -0.5), (0, -1), (1, -0.5), (1, 0.5), (0, 1), (-1, 0.5)),
    ((-1, -1), (1, -1), (1, 1), (-1, 1)), ((0, -1), (1, 0), (0, 1), (-1, 0))]

# A handle, legs, a stem with a foot, a strap, a lid: the strokes of a family's first to fifth category.
_PARTS = [(((0.8, -0.5), (1.5, -0.5), (1.5, 0.5), (0.8, 0.5)),), (((-0.7, 0.9), (-0.7, 1.6)), ((0.7, 0.9), (0.7, 1.6))),
    (((0, 0.9), (0, 1.5)), ((-0.7, 1.5), (0.7, 1.5))), (((-0.8, -0.8), (-0.4, -1.5), (0.4, -1.5), (0.8, -0.8)),),
    (((-1.3, -1), (1.3, -1)), ((-1.3, -0.7), (1.3, -0.7)))]
# fmt: on


@dataclass(frozen=True)
class _Entry:
    """Two lines of the vocabulary: a family, or a category, which has no materials."""

    name: str
    nouns: list[str]
    materials: list[str]
    cues: list[str]


_Family = tuple[_Entry, list[_Entry]]


def make_catalogue(directory: Path, n_products: int = 3200, seed: int = 0) -> Path:
    """Make the catalogue in a directory, unless it is already there and complete.

    It is built in a temporary directory and then renamed, so an interruption never leaves a partial catalogue. The same
    arguments give the same bytes.

    Args:
        directory: Where the table and its `images/` go. An older or incomplete catalogue there is replaced.
        n_products: Number of products; at least two per category, and those of the rare categories.
        seed: Seed of every random choice.

    Returns:
        Path of the table, `products.parquet`, with the string columns `id`, `title`, `description`, `category` (the
        label) and `image` (a path relative to the table).

    Raises:
        ValueError: `n_products` is too small, or `seed` is negative.
        RunError: `directory` is a file, or contains something other than a catalogue.
    """
    families = _families()
    counts = _class_counts(families, n_products)
    if seed < 0:
        raise ValueError(f"`seed` must be 0 or above, got {seed}")
    request = {"version": _VERSION, "n_products": n_products, "seed": seed}
    directory = directory.absolute()
    if _is_complete(directory, request):
        return directory / _TABLE
    # Only a catalogue is ever replaced, never a user's files.
    if directory.exists() and not (directory.is_dir() and set(os.listdir(directory)) <= {_TABLE, _IMAGES, _MARK}):
        raise RunError(f"{directory} must be new, empty, or an earlier catalogue; choose another directory")
    aside = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    (aside / _IMAGES).mkdir(parents=True)
    try:
        _write(aside, families, counts, request)
        shutil.rmtree(directory, ignore_errors=True)
        aside.rename(directory)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return directory / _TABLE


def _is_complete(directory: Path, request: dict[str, int]) -> bool:
    """Compare the directory with its mark: the request, the digest of the table, number and size of the images."""
    try:
        mark = json.loads((directory / _MARK).read_text(encoding="utf-8"))
        return bool(mark == request | _contents(directory))
    except (OSError, ValueError):
        return False


def _contents(directory: Path) -> dict[str, int | str]:
    sizes = [entry.stat().st_size for entry in os.scandir(directory / _IMAGES)]
    digest = hashlib.sha256((directory / _TABLE).read_bytes()).hexdigest()
    return {"table_sha256": digest, "n_images": len(sizes), "image_bytes": sum(sizes)}


def _families() -> list[_Family]:
    """Parse the families of the vocabulary, each with its categories."""
    families = []
    for block in _FAMILIES:
        entries = []
        lines = block.strip().splitlines()
        for heading, cues in zip(lines[::2], lines[1::2], strict=True):
            name, *lists = heading.split(" | ")
            nouns, materials = ([words.split(", ") for words in lists] + [[]])[:2]
            entries.append(_Entry(name, nouns, materials, cues.strip().split("; ")))
        families.append((entries[0], entries[1:]))
    return families


def _class_counts(families: list[_Family], n_products: int) -> dict[tuple[int, int], int]:
    """Return the number of products per (family, category): a long tail; two to six in a rare category."""
    keys = [(f, c) for c in range(len(_PARTS)) for f in range(len(families))]
    usual, rare = keys[: _N_USUAL * len(families)], keys[_N_USUAL * len(families) :]
    counts = {key: 2 + place % 5 for place, key in enumerate(rare)}
    spare = n_products - sum(counts.values()) - 2 * len(usual)
    if spare < 0:
        raise ValueError(f"`n_products` must be at least {n_products - spare}, got {n_products}")
    weights = (np.arange(len(usual)) + 4.0) ** -0.9
    shares = np.floor(spare * weights / weights.sum()).astype(int)
    shares[0] += spare - shares.sum()
    # A stride coprime to their number spreads the common categories over the families.
    order = [usual[7 * place % len(usual)] for place in range(len(usual))]
    return counts | {key: 2 + int(share) for key, share in zip(order, shares, strict=True)}


def _write(aside: Path, families: list[_Family], counts: dict[tuple[int, int], int], request: dict[str, int]) -> None:
    """Write the images and the table, and last the mark that identifies them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Words and images have separate random streams, so that changing one does not change the other.
    words, strokes = (np.random.default_rng([request["seed"], stream]) for stream in range(2))
    labels = [key for key, count in counts.items() for _ in range(count)]
    rows = []
    for number, place in enumerate(words.permutation(len(labels))):
        f, filed = labels[place]
        shown = filed
        if filed < _N_USUAL and words.random() < _LABEL_NOISE:
            shown = (filed + int(words.integers(1, _N_USUAL))) % _N_USUAL
        colour = _colour(words, 5 * f + shown)
        title, description = _describe(words, families[f], shown, colour)
        item = f"p{number:05d}"
        image = f"{_IMAGES}/{item}.png"
        _draw(strokes, f, shown, colour).save(aside / image)
        category = families[f][1][filed].name
        rows.append({"id": item, "title": title, "description": description, "category": category, "image": image})
    pq.write_table(pa.Table.from_pylist(rows), aside / _TABLE)
    (aside / _MARK).write_text(json.dumps(request | _contents(aside), indent=1) + "\n", encoding="utf-8")


def _describe(rng: np.random.Generator, family: _Family, c: int, colour: str) -> tuple[str, str]:
    """Return the title and the description of a product in the family's category `c`."""
    shared, categories = family
    own, neighbour = categories[c], categories[(c + int(rng.integers(1, len(categories)))) % len(categories)]
    brand, line, adjective, second = (
        _pick(rng, _WORDS[name]) for name in ("brands", "ranges", "adjectives", "adjectives")
    )
    material = _pick(rng, shared.materials)
    form = rng.random()
    noun = _pick(rng, own.nouns if form < _TITLE_NAMES else shared.nouns)
    titles = [f"{brand} {line} {noun}, {colour}", f"{adjective} {material} {noun} by {brand}"]
    titles += [f"{line} {noun} in {material}", f"{brand} {adjective} {noun}"]
    bare = [f"{brand} {line} {int(rng.integers(1, 10))}", f"{line} by {brand}, {colour}", f"{brand} {line}, {material}"]
    title = _pick(rng, bare if form >= 1 - _TITLE_BARE else titles)
    noun = _pick(rng, own.nouns if rng.random() < _OPENING_NAMES else shared.nouns)
    openings = [f"The {line} {noun} is {adjective} and {second}.", f"{adjective} {material}, from the {line} range."]
    openings += [f"This {adjective} {noun} from {brand} comes in {material}."]

    n_own = 1 + int(rng.random() < _SECOND_CUE)
    cues = [_pick(rng, neighbour.cues if rng.random() < _CUE_ASTRAY else own.cues) for _ in range(n_own)]
    cues += [_pick(rng, shared.cues) for _ in range(int(rng.integers(1, 3)))]
    cues = _shuffled(rng, cues)
    leads = _shuffled(rng, _WORDS["leads"])
    sentences = [f"{leads[i]} {' and '.join(cues[i : i + 2])}." for i in range(0, len(cues), 2)]
    if rng.random() < _MENTION:
        sentences.append(f"Goes well with the {line} {_pick(rng, neighbour.nouns)}.")
    if rng.random() < 0.5:
        sentences.append(_pick(rng, _WORDS["fillers"]))
    texts = [title, _pick(rng, openings), *_shuffled(rng, sentences)]
    title, *sentences = (text[:1].upper() + text[1:] for text in texts)
    return title, " ".join(sentences)


def _draw(rng: np.random.Generator, f: int, c: int, colour: str) -> Image:
    """Draw an image: the family gives the body, the category (now and then another one) a part and a texture."""
    from PIL import Image, ImageColor, ImageDraw

    if rng.random() < _PICTURE_ASTRAY:
        c = int(rng.integers(len(_PARTS)))
    fill = tuple(int(level * rng.uniform(0.85, 1.0)) for level in ImageColor.getrgb(colour))
    trim = tuple(level // 2 if sum(fill) > 330 else (level + 255) // 2 for level in fill)
    backdrop = tuple(int(level) for level in rng.integers(232, 256, size=3))
    picture = Image.new("RGB", (_IMAGE_SIZE, _IMAGE_SIZE), backdrop)
    pen = ImageDraw.Draw(picture)
    x, y = _IMAGE_SIZE / 2 + rng.uniform(-3, 3, size=2)
    w = (13 + 2 * ((f + c) % 4)) * rng.uniform(0.9, 1.1)
    h = (19 - 2 * ((2 * f + c) % 5)) * rng.uniform(0.9, 1.1)

    def place(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(x + w * u, y + h * v) for u, v in points]

    pen.polygon(place(_BODIES[f % len(_BODIES)]), fill=fill)
    for stroke in _PARTS[c]:
        pen.line(place(stroke), fill=trim, width=3)
    # The texture: rows of horizontal or vertical dashes, more or less dense.
    for v in np.arange(-0.6, 0.61, (0.25, 0.35, 0.5, 0.7)[(f + 3 * c) % 4]):
        dash = ((-0.5, v), (0.5, v)) if (f + c) % 3 else ((v, -0.5), (v, 0.5))
        pen.line(place(dash), fill=trim, width=1 + c % 3)
    return picture


def _colour(rng: np.random.Generator, n: int) -> str:
    """Choose a colour, in more than half of the cases one of the three that category number `n` favours."""
    colours = _WORDS["colours"]
    favoured = (5 * n + (0, 3, 7)[int(rng.integers(3))]) % len(colours)
    return colours[favoured] if rng.random() < 0.6 else _pick(rng, colours)


def _pick(rng: np.random.Generator, options: Sequence[_T]) -> _T:
    return options[int(rng.integers(len(options)))]


def _shuffled(rng: np.random.Generator, options: Sequence[_T]) -> list[_T]:
    """Return the distinct options in random order."""
    unique = list(dict.fromkeys(options))
    return [unique[i] for i in rng.permutation(len(unique))]
