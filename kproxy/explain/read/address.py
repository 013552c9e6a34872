"""The one spelling of an address, by which what a user, a dump or the kernel wrote is compared."""

from __future__ import annotations

from ipaddress import ip_address


def canonical(text: str) -> str | None:
    """None where it is none; an address with a scope is one of a link and not of a cluster."""
    try:
        return None if "%" in text else str(ip_address(text))
    except ValueError:
        return None
