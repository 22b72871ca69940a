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
    """The IPv4 address from which this machine reaches the host. Raises `UserError`."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))  # a datagram socket: the kernel only looks up the route
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


def own_address() -> str:
    """The address of the default route. Raises `UserError`."""
    try:
        return source_address("192.0.2.1")  # of the range for documentation: nobody's
    except UserError:
        raise UserError("this machine has no default route: name its address with --advertise-address") from None
