"""TLS contexts whose own certificate may be renewed while they are in use.

A certificate lives shorter than the process that shows it. A `RenewingContext` looks, before each handshake, whether
the files of its certificate and key have changed, and loads them then: whoever writes a new pair needs to tell nobody,
no process restarts, and connections that are open go on. A pair that cannot be loaded (half written, gone) is passed
over, and the one before stays in use until the next handshake. Looking costs two calls of stat(2) a handshake, and
nothing at rest.
"""

from __future__ import annotations

import logging
import os
import ssl
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

_Stamp = tuple[tuple[int, int, int], ...]


class RenewingContext(ssl.SSLContext):
    """A context that shows the certificate of `show`'s files as they are at each handshake."""

    _pair: tuple[Path, Path] | None = None
    _stamp: _Stamp | None = None

    def show(self, certificate: Path, key: Path) -> None:
        """Show this certificate from now on. Raises OSError and `ssl.SSLError` when it cannot be loaded now."""
        stamp = _stamp_of(certificate, key)
        self.load_cert_chain(certificate, key)
        self._pair, self._stamp = (certificate, key), stamp

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        self._look()
        return super().wrap_bio(*arguments, **options)

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        self._look()
        return super().wrap_socket(*arguments, **options)

    def _look(self) -> None:
        if self._pair is None:
            return
        try:
            if _stamp_of(*self._pair) != self._stamp:
                self.show(*self._pair)
                log.info("the certificate %s was renewed", self._pair[0])
        except (OSError, ssl.SSLError) as error:
            log.warning("the certificate %s cannot be loaded, the one before stays: %s", self._pair[0], error)


def client_context(authority: bytes) -> RenewingContext:
    """For a client that trusts the authority (PEM), or those of the machine when that is empty."""
    context = RenewingContext(ssl.PROTOCOL_TLS_CLIENT)
    if authority:
        context.load_verify_locations(cadata=authority.decode())
    else:
        context.load_default_certs()
    return context


def server_context(certificate: Path, key: Path, client_authority: Path) -> RenewingContext:
    """For a server whose clients may show a certificate of the authority (`verify_mode` is CERT_OPTIONAL).

    Raises OSError and `ssl.SSLError` when a file cannot be loaded.
    """
    context = RenewingContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.show(certificate, key)
    context.load_verify_locations(client_authority)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _stamp_of(*files: Path) -> _Stamp:
    found = [os.stat(file) for file in files]
    return tuple((status.st_ino, status.st_mtime_ns, status.st_size) for status in found)
