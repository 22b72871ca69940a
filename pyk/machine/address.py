"""This machine's addresses, as the kernel would choose them; no packet is sent to find out."""

from __future__ import annotations

import socket

from pyk.errors import UserError


def source_address(host: str) -> str:
    """The IPv4 address from which this machine reaches the host. Raises `UserError`."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))  # a datagram socket: the kernel only looks up the route
            return str(probe.getsockname()[0])
    except OSError as error:
        raise UserError(f"this machine has no way to {host}: {error.strerror or error}") from None


def own_address() -> str:
    """The address of the default route. Raises `UserError`."""
    try:
        return source_address("192.0.2.1")  # of the range for documentation: nobody's
    except UserError:
        raise UserError("this machine has no default route: name its address with --advertise-address") from None
