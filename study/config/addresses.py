"""Addresses in a study file: no secrets, since the file is printed, recorded and tracked; which are local."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

_PRINTED = {
    "directory": "give its keys by the environment",
    "data.table": "give its keys by the environment, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "resources.address": "give the cluster's token by RAY_AUTH_TOKEN_PATH",
    "tracking.uri": "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead",
}

_SECRET_WORDS = ("passw", "pwd", "token", "secret", "sig", "credential", "key")


def has_secret_parameter(address: str) -> bool:
    """Return whether an address has a parameter that looks like a password or key."""
    names = [name.lower() for name, _ in parse_qsl(urlsplit(address).query, keep_blank_values=True)]
    return any(word in name for name in names for word in _SECRET_WORDS)


def secret_problems(sections: Mapping[str, Any]) -> Iterator[str]:
    """Yield a problem for each address with a user or password, without its value."""
    for place, remedy in _PRINTED.items():
        section, _, key = place.partition(".")
        value = getattr(sections.get(section), key, None) if key else sections.get(section)
        if isinstance(value, str) and ("@" in urlsplit(value).netloc or has_secret_parameter(value)):
            yield f"`{place}` must not hold a user, password or key, since it is printed and recorded; {remedy}"


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine's loopback, which other machines do not reach.

    A host is a name or an address without a port; an IPv6 address with or without its brackets.
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
