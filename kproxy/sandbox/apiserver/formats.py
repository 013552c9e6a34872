"""Whether a name, a port or an address is well formed, and the sentence that says what would be.

Each function returns the faults of one value, none when it is well formed, in the API server's words: users look
these sentences up. What belongs to one kind of object is in `services` and `validate`.

Sources: Kubernetes "Object Names and IDs" (DNS-1035, DNS-1123); RFC 6335 for port names.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

_LABEL_1035 = "[a-z]([-a-z0-9]*[a-z0-9])?"
_LABEL_1123 = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN_1123 = rf"{_LABEL_1123}(\.{_LABEL_1123})*"
_QUALIFIED = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_VALUE = f"({_QUALIFIED})?"

_NEED_ADDRESS = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
_NEED_CIDR = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"


def _too_long(text: str, most: int) -> list[str]:
    return [f"must be no more than {most} bytes"] if len(text.encode()) > most else []


def _unlike(text: str, pattern: str, what: str, *examples: str) -> list[str]:
    if re.fullmatch(pattern, text):
        return []
    shown = ",  or ".join(f"'{example}'" for example in examples)
    return [f"{what} (e.g. {shown}, regex used for validation is '{pattern}')"]


def dns_1035_label(text: str) -> list[str]:
    what = (
        "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic"
        " character, and end with an alphanumeric character"
    )
    return _too_long(text, 63) + _unlike(text, _LABEL_1035, what, "my-name", "abc-123")


def dns_1123_label(text: str) -> list[str]:
    what = (
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start"
        " and end with an alphanumeric character"
    )
    return _too_long(text, 63) + _unlike(text, _LABEL_1123, what, "my-name", "123-abc")


def dns_1123_subdomain(text: str) -> list[str]:
    what = (
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must"
        " start and end with an alphanumeric character"
    )
    return _too_long(text, 253) + _unlike(text, _SUBDOMAIN_1123, what, "example.com")


def qualified_name(text: str) -> list[str]:
    """Find the faults of a label or annotation key: an optional DNS prefix, a slash, a name."""
    prefix, slash, name = text.rpartition("/")
    faults = []
    if slash:
        faults += (
            [f"prefix part {fault}" for fault in dns_1123_subdomain(prefix)]
            if prefix
            else ["prefix part must be non-empty"]
        )
    if not name:
        return [*faults, "name part must be non-empty"]
    what = (
        "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an"
        " alphanumeric character"
    )
    return faults + _too_long(name, 63) + _unlike(name, _QUALIFIED, what, "MyName", "my.name", "123-abc")


def label_value(text: str) -> list[str]:
    what = (
        "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must"
        " start and end with an alphanumeric character"
    )
    return _too_long(text, 63) + _unlike(text, _VALUE, what, "MyValue", "my_value", "12345")


def port_number(number: int) -> list[str]:
    return [] if 1 <= number <= 65535 else ["must be between 1 and 65535, inclusive"]


def port_name(text: str) -> list[str]:
    """Find the faults of an IANA service name, which target ports may be."""
    faults = []
    if len(text) > 15:
        faults.append("must be no more than 15 characters")
    if not re.fullmatch("[-a-z0-9]+", text):
        faults.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if not re.search("[a-z]", text):
        faults.append("must contain at least one letter (a-z)")
    if "--" in text:
        faults.append("must not contain consecutive hyphens")
    if text.startswith("-") or text.endswith("-"):
        faults.append("must not begin or end with a hyphen")
    return faults


def parsed(text: str) -> IPv4Address | IPv6Address | None:
    """Return the address, or None when the text is not one; leading zeros are not one."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return None if isinstance(address, IPv6Address) and address.scope_id else address


def address(text: str) -> list[str]:
    return [] if parsed(text) else [_NEED_ADDRESS]


def routable(text: str) -> list[str]:
    """Find the faults of an address that traffic may be sent to."""
    found = parsed(text)
    if not found:
        return [_NEED_ADDRESS]
    faults = []
    if found.is_unspecified:
        faults.append("may not be unspecified (0.0.0.0 or ::)")
    if found.is_loopback:
        faults.append("may not be in the loopback range (127.0.0.0/8, ::1/128)")
    if found.is_link_local:
        faults.append("may not be in the link-local range (169.254.0.0/16, fe80::/10)")
    if found.is_multicast and int(found) >> (found.max_prefixlen - 24) == 0xE00000:
        faults.append("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
    return faults


def cidr(text: str) -> list[str]:
    try:
        ip_network(text, strict=False)
    except ValueError:
        return [_NEED_CIDR]
    return [] if "/" in text else [_NEED_CIDR]


def family(text: str) -> str:
    """Return IPv4 or IPv6 as the API spells them; empty when the text is no address."""
    found = parsed(text)
    return f"IPv{found.version}" if found else ""
