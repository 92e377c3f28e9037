"""Write the items to label next as a page: texts and images of the first items, all in one file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

from PIL import Image

from analysis.report.page import environment
from embedding_jobs.sources.items import Source, image_location, read_image_bytes
from embedding_jobs.sources.places import read_file
from study.labelling.items import RankedItem

_SIDE_PIXELS = 220

# Errors that Pillow raises for an image that it cannot or will not read.
_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


def label_page(
    items: Sequence[RankedItem], n_items: int, source: Source, study: str, model: str, warning: str | None = None
) -> str:
    """Return the page as HTML.

    Args:
        items: The items to show.
        n_items: Number of all items.
        source: Where their pictures are.
        study: The study's name.
        model: How the model was trained.
        warning: That it has not converged, or could not be judged; None if it has.
    """
    pictures = {item.row: picture for item in items if (picture := _thumbnail(item, source)) is not None}
    template = environment().get_template("label.html.j2")
    shown = {"items": items, "n_items": n_items, "pictures": pictures, "study": study, "model": model}
    return template.render(**shown, warning=warning, colors=())


def _thumbnail(item: RankedItem, source: Source) -> str | None:
    """Return a small copy of an item's image as a data URL; None if there is no readable image."""
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
