"""What an address says of who can reach it."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own, which others do not reach.

    Args:
        host: Without a port; an IPv6 address with or without its brackets.
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
