"""What a study file must not hold if the study runs on other machines than this one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def travel_problems(raw: Mapping[str, Any], sections: Mapping[str, Any]) -> Iterator[str]:
    """What another machine could not make sense of: places that hang from this one.

    Args:
        raw: The study file's contents.
        sections: Its sections, as far as they are sound, their paths as they stand in the file.
    """
    places = {"directory": raw.get("directory")}
    if "data" in sections:
        places["data.table"] = sections["data"].table
    if "encoders" in sections:
        text, image = sections["encoders"].text, sections["encoders"].image
        if text is not None and text.model.startswith((".", "~")):
            places["encoders.text.model"] = text.model
        if image is not None and image.checkpoint:
            places["encoders.image.checkpoint"] = image.checkpoint
    for key, place in places.items():
        if isinstance(place, str) and "://" not in place and not place.startswith("/"):
            remedy = "put it on storage that every node sees, and give its absolute path there"
            yield f"`{key}` must not be relative in a study that runs on a cluster, got {place!r}; {remedy}"
    uri = sections["tracking"].uri if "tracking" in sections else None
    if uri and uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        yield f"`tracking.uri` must not be relative in a study that runs on a cluster, got {uri!r}; write four slashes"
    address = sections["resources"].address if "resources" in sections else None
    if address not in (None, "auto"):
        yield f"`resources.address` must be left out: the study runs on the cluster it is sent to, got {address!r}"
