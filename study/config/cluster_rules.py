"""What a study file must not contain if the study runs on other machines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def cluster_problems(raw: Mapping[str, Any], sections: Mapping[str, Any]) -> Iterator[str]:
    """Yield a problem for each place that has no meaning on another machine, such as a relative path.

    Args:
        raw: The study file's contents.
        sections: Its valid sections, with their paths as the file gives them.
    """
    places = {"directory": raw.get("directory")}
    if "data" in sections:
        places["data.table"] = sections["data"].table
        places |= {f"data.vectors.{column.name}": column.file for column in sections["data"].vector_columns}
    if "encoders" in sections:
        text, image = sections["encoders"].text, sections["encoders"].image
        if text is not None and text.model.startswith((".", "~")):
            places["encoders.text.model"] = text.model
        if image is not None and image.checkpoint:
            places["encoders.image.checkpoint"] = image.checkpoint
    for key, place in places.items():
        if isinstance(place, str) and "://" not in place and not place.startswith("/"):
            remedy = "put it on storage that every node reaches, and give its absolute path there"
            yield f"`{key}` must be absolute in a study that runs on a cluster, got {place!r}; {remedy}"
    uri = sections["tracking"].uri if "tracking" in sections else None
    if uri and uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        yield f"`tracking.uri` must be absolute in a study that runs on a cluster, got {uri!r}; write four slashes"
    address = sections["resources"].address if "resources" in sections else None
    if address not in (None, "auto"):
        yield f"`resources.address` must be left out on a cluster: the study runs where it is sent, got {address!r}"
