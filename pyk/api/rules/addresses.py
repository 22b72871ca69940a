"""IP addresses and ranges in fields: reading them, and which ones traffic must not be sent to."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from pyk.api.status import FieldError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

ADDRESS_FORM = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
NETWORK_FORM = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"


def address_of(text: str) -> Address | None:
    """The address that a text is; None when it is none (one with a zone is none)."""
    try:
        return ipaddress.ip_address(text) if "%" not in text else None
    except ValueError:
        return None


def network_of(text: str) -> Network | None:
    """The range that a text such as `10.9.8.0/24` is; None when it is none. Bits of hosts are ignored."""
    if "/" not in text or "%" in text:
        return None
    address, _, length = text.partition("/")
    try:
        return ipaddress.ip_network(f"{address}/{int(length)}", strict=False) if length.isdigit() else None
    except ValueError:
        return None


def check_address(path: str, text: str) -> Iterator[FieldError]:
    if address_of(text) is None:
        yield FieldError.invalid(path, text, ADDRESS_FORM)


def check_network(path: str, text: str) -> Iterator[FieldError]:
    if network_of(text) is None:
        yield FieldError.invalid(path, text, NETWORK_FORM)


def check_reachable(address: Address, path: str) -> Iterator[FieldError]:
    """Traffic must not be sent to the machines that would send it."""
    shown = str(address)
    if address.is_unspecified:
        yield FieldError.invalid(path, shown, f"may not be unspecified ({shown})")
    elif address.is_loopback:
        yield FieldError.invalid(path, shown, "may not be in the loopback range (127.0.0.0/8, ::1/128)")
    elif address.is_link_local:
        yield FieldError.invalid(path, shown, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")
    elif address.is_multicast and address.packed[:3] in (b"\xe0\0\0", b"\xff\x02\0"):
        yield FieldError.invalid(path, shown, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
