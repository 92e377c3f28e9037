"""What to label next as a page: texts and pictures of the items at the top, all in one file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

from PIL import Image

from analysis.report.page import environment
from embedding_jobs.sources.items import Source, image_location, read_image_bytes
from embedding_jobs.sources.tables import read_file
from study.labelling.items import RankedItem

_SIDE_PIXELS = 220

_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)

"""What Pillow raises of a picture that it cannot or will not read."""


def render(items: Sequence[RankedItem], n_items: int, source: Source, study: str, model: str) -> str:
    """The page.

    Args:
        items: Those at the top, the first to label first.
        n_items: Items in all.
        source: The table, for its pictures.
        study: Name of the study.
        model: How the classifier was trained, in words.
    """
    pictures = {item.row: picture for item in items if (picture := _picture(item, source)) is not None}
    template = environment().get_template("label.html.j2")
    return template.render(items=items, n_items=n_items, pictures=pictures, study=study, model=model, colors=())


def _picture(item: RankedItem, source: Source) -> str | None:
    """A small copy of an item's picture as an address that holds it; None where there is none to read."""
    if source.image is None:
        return None
    try:
        if item.image is not None:
            content: bytes | None = read_file(image_location(source, item.image))
        else:
            content = next(iter(read_image_bytes(source, [item.row])), None)
        if not content:
            return None
        with Image.open(io.BytesIO(content)) as image:
            image.draft("RGB", (_SIDE_PIXELS, _SIDE_PIXELS))
            small = image.convert("RGB")
            small.thumbnail((_SIDE_PIXELS, _SIDE_PIXELS))
    except _UNREADABLE:
        return None
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
