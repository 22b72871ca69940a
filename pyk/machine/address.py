"""This machine's addresses, as the kernel would choose them; no packet is sent to find out."""

from __future__ import annotations

import socket

from pyk.errors import UserError
from pyk.reconcile.clock import Clock

LOOK_SECONDS = 5.0
"""How often to see whether an address is still there: a call of bind(2) each time."""


class AddressGone(UserError):
    """The machine lost the address that it is known by."""


def source_address(host: str) -> str:
    """The address from which this machine reaches the host: of the family of the address that its name has first.

    Raises `UserError`.
    """
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(target)  # a datagram socket: the kernel only looks up the route
            return str(probe.getsockname()[0])
    except OSError as error:
        raise UserError(f"this machine has no way to {host}: {error.strerror or error}") from None


def has_address(address: str) -> bool:
    """Whether the address is one of this machine's."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


async def watch(address: str, clock: Clock) -> None:
    """Until cancelled. Raises `AddressGone` when the machine has lost the address, as it does when it gets another."""
    while has_address(address):
        await clock.sleep(LOOK_SECONDS)
    raise AddressGone(f"this machine does not have the address {address} any more: starting anew with the one it has")


def own_address(family: int = 4) -> str:
    """The address of the default route of IPv4 or IPv6 (`family` 4 or 6). Raises `UserError`."""
    try:
        return source_address("192.0.2.1" if family == 4 else "2001:db8::1")  # ranges for documentation: nobody's
    except UserError:
        which = "" if family == 4 else " of IPv6"
        raise UserError(
            f"this machine has no default route{which}: name its address with --advertise-address"
        ) from None
