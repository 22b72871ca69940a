"""The text that a person carries from the control plane to a machine that joins.

    K10<SHA-256 of the authority's public key>::<ID>.<SECRET>[::<key of the control plane's bundle>]

The form is that of k3s, for the same reason: a token alone says who may join, not whom to trust, and people leave out
what is a second option. With the hash in it the machine knows the cluster's authority before it has sent anything. The
hash is kubeadm's (of the public key, so the authority's certificate may be renewed); `ID.SECRET` with `--ca-hash
sha256:...` says the same. The third part is only in tokens for control planes: it decrypts the bundle with the
cluster's keys (`bundle.py`), which the API server therefore cannot read.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

from pyk.api.bootstraptokens import split_token
from pyk.errors import UserError

_PREFIX = "K10"
_HASH = re.compile(r"[0-9a-f]{64}\Z")
_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"


class BadToken(UserError):
    """The text is no token."""


@dataclass(frozen=True, slots=True)
class JoinToken:
    """What a token says. `ca_hash` is in hexadecimal digits; `bundle_key` is empty for a token of nodes."""

    ca_hash: str
    id: str
    secret: str
    bundle_key: str = ""

    @property
    def bearer(self) -> str:
        """The bootstrap token, as the API server knows it."""
        return f"{self.id}.{self.secret}"

    def __str__(self) -> str:
        tail = f"::{self.bundle_key}" if self.bundle_key else ""
        return f"{_PREFIX}{self.ca_hash}::{self.bearer}{tail}"


def new_bearer() -> tuple[str, str]:
    """A new id and secret."""
    return tuple("".join(secrets.choice(_ALPHABET) for _ in range(length)) for length in (6, 16))  # type: ignore[return-value]


def parse(text: str, ca_hash: str = "") -> JoinToken:
    """The token in a text; `ca_hash` is what `--ca-hash` says. Raises `BadToken`; never repeats the secret."""
    pinned = ca_hash.removeprefix("sha256:").lower()
    if pinned and _HASH.match(pinned) is None:
        raise BadToken(f"--ca-hash {ca_hash}: write sha256: and 64 hexadecimal digits")
    bundle_key = ""
    bearer = text.strip()
    if bearer.startswith(_PREFIX):
        found, _, rest = bearer.removeprefix(_PREFIX).partition("::")
        if _HASH.match(found) is None:
            raise BadToken("the token is cut or changed: its hash of the authority has to be 64 hexadecimal digits")
        if pinned and pinned != found:
            raise BadToken("the token and --ca-hash name different authorities")
        pinned = found
        bearer, _, bundle_key = rest.partition("::")
    parts = split_token(bearer)
    if parts is None:
        raise BadToken("the token is cut or changed: it has to end in ID.SECRET, of 6 and 16 characters a-z and 0-9")
    if not pinned:
        raise BadToken(
            "the token does not say which cluster to trust: use the whole one that 'pyk token create' prints, or give "
            "--ca-hash sha256:HASH"
        )
    return JoinToken(pinned, *parts, bundle_key)
