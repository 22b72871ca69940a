"""Making, listing and deleting the tokens with which machines join."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

from pyk.api.bootstraptokens import (
    AUTHENTICATION,
    SECRET_NAMESPACE,
    SECRET_PREFIX,
    SECRET_TYPE,
    SIGNING,
    BootstrapToken,
    token_of,
)
from pyk.api.joining import SERVERS_GROUP
from pyk.api.kinds import BY_KIND, SECRET
from pyk.api.objects import Object, namespace_of
from pyk.client.blocking import BlockingClient
from pyk.errors import UserError
from pyk.machine import bundle
from pyk.machine.authority import hash_of
from pyk.machine.token import JoinToken, new_bearer

DEFAULT_TTL_SECONDS = 86400.0
SERVER_TTL_SECONDS = 7200.0
"""Of tokens for control planes: who has one has the cluster's keys."""
USAGES = (AUTHENTICATION, SIGNING)
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?\Z")


def parse_ttl(text: str) -> float:
    """Seconds of `24h`, `90m`, `7d` and the like; infinite for `0`. Raises `UserError`."""
    if text == "0":
        return math.inf
    found = _DURATION.match(text)
    if not text or found is None:
        raise UserError(f"--ttl {text}: write for instance 24h, 90m or 7d; 0 for a token that does not expire")
    days, hours, minutes, seconds = (int(number or 0) for number in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def new_token(
    now: float, ttl: float, *, description: str = "", groups: tuple[str, ...] = (), usages: frozenset[str]
) -> BootstrapToken:
    """A token that lasts `ttl` seconds from `now` on."""
    token_id, secret = new_bearer()
    expires = now + ttl if ttl != math.inf else math.inf
    return BootstrapToken(token_id, secret, usages, groups, expires, description)


def create(client: BlockingClient, token: BootstrapToken) -> JoinToken:
    """Make the token known: the text to carry. Raises `ApiError`, `ServerUnreachable`."""
    client.json("POST", SECRET.path(SECRET_NAMESPACE), body=token.to_secret())
    return JoinToken(hash_of(client.config.ca), token.id, token.secret)


def create_for_servers(
    client: BlockingClient, token: BootstrapToken, pki_dir: Path, settings: Mapping[str, str]
) -> JoinToken:
    """The same for a further control plane, with the cluster's keys, which are read in `pki_dir`."""
    if not (pki_dir / "ca.key").exists():
        raise UserError(f"{pki_dir} has no keys of a cluster: run this on a control plane, as root")
    key = bundle.new_key()
    sealed = bundle.seal(pki_dir, settings, key, token.id)
    secret = client.json("POST", SECRET.path(SECRET_NAMESPACE), body=token.to_secret())
    for obj in bundle.objects(token.id, sealed, secret):
        client.json("POST", BY_KIND[obj["apiVersion"], obj["kind"]].path(namespace_of(obj)), body=obj)
    return JoinToken(hash_of(client.config.ca), token.id, token.secret, key)


def listed(client: BlockingClient) -> list[BootstrapToken]:
    """All tokens, those that end first before the others."""
    secrets = client.list(SECRET, SECRET_NAMESPACE, field_selector=f"type={SECRET_TYPE}")["items"]
    found: list[BootstrapToken] = [token for secret in secrets if (token := token_of(_typed(secret))) is not None]
    return sorted(found, key=lambda token: (token.expires, token.id))


def delete(client: BlockingClient, text: str) -> str:
    """Delete the token with this id, or this whole text: its id. Raises `ApiError` 404 when there is none."""
    bearer = text.split("::")[1] if "::" in text else text
    token_id = bearer.partition(".")[0]
    if re.fullmatch(r"[a-z0-9]{6}", token_id) is None:
        raise UserError(f"{text[:12]!r} is no token and no token's id: 'pyk token list' shows them")
    client.json("DELETE", SECRET.path(SECRET_NAMESPACE, f"{SECRET_PREFIX}{token_id}"))
    return token_id


def is_for_servers(token: BootstrapToken) -> bool:
    return SERVERS_GROUP in token.groups


def _typed(secret: Object) -> Object:
    return {"apiVersion": "v1", "kind": "Secret", **secret}
