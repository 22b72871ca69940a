"""Who sends a request: the subject of a client certificate, the owner of a bearer token, or nobody.

A certificate counts because the TLS layer verified it against the cluster's authority (`server_context`): its common
name is the user, its organizations are the groups. Tokens come from a file of `token,user,uid,"group1,group2"` rows,
read once; what is none of these may be a bootstrap token (`bootstraptokens.py`) or a service account's
(`tokens.py`). Whoever shows neither is `system:anonymous`;
a token that nobody owns is a 401, and so is a certificate of a node that was removed since it was made.
"""

from __future__ import annotations

import asyncio
import base64
import csv
import hashlib
import hmac
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aiohttp import web

from pyk.api.signers import BACKDATE_SECONDS, NODE_PREFIX
from pyk.api.status import ApiError, unauthorized
from pyk.tls import server_context

ALL_AUTHENTICATED = "system:authenticated"
CREDENTIAL_ID = "authentication.kubernetes.io/credential-id"
"""In the `extra` of who was authenticated: by which certificate or token."""
_KEPT_CERTIFICATES = 1024
_WEBSOCKET_BEARER = "base64url.bearer.authorization.k8s.io."


@dataclass(frozen=True, slots=True)
class UserInfo:
    """An identity: its name and the groups it is in; `extra` is what else its authenticator knows, by key."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()


ANONYMOUS = UserInfo("system:anonymous", groups=("system:unauthenticated",))


def service_account_groups(namespace: str) -> tuple[str, ...]:
    """The groups of every service account of a namespace."""
    return ("system:serviceaccounts", f"system:serviceaccounts:{namespace}")


Verify = Callable[[str], Awaitable[UserInfo | None]]


class Authenticator:
    """Turns requests into identities.

    `ca_file` is the authority that signs client certificates, `tokens_file` the static tokens; `bootstrap` tells the
    owner of a bootstrap token, `verify` that of any other token, or None. `voided_until` tells up to when the
    certificates of a node are void, in seconds since the epoch. Raises OSError when a file cannot be read and
    ValueError when a row of tokens is not one.
    """

    def __init__(
        self,
        ca_file: Path | str,
        tokens_file: Path | str | None = None,
        verify: Verify | None = None,
        bootstrap: Verify | None = None,
        voided_until: Callable[[str], float] = lambda node: 0.0,
    ) -> None:
        self._voided_until = voided_until
        self._ca_file = Path(ca_file)
        self._verify = verify
        self._bootstrap = bootstrap
        self._shown: dict[tuple[Subject, Subject, str], UserInfo | None] = {}
        """Who the certificates name that have been shown of late."""
        self._tokens = list(_read_tokens(Path(tokens_file))) if tokens_file is not None else []

    def server_context(self, certificate: Path | str, key: Path | str) -> ssl.SSLContext:
        """The TLS settings of the API server: clients may show a certificate, which must then be a good one."""
        context = server_context(Path(certificate), Path(key), self._ca_file)
        context.set_alpn_protocols(["http/1.1"])
        return context

    async def authenticate(self, request: web.BaseRequest) -> UserInfo:
        """Who sends the request. Raises a 401 `ApiError` for a bearer token that nobody owns."""
        if request.transport is not None:
            certificate = request.transport.get_extra_info("peercert")
            if certificate:
                user = self._user_of_certificate(certificate, request.transport)
                if user is not None:
                    self._check_node(user, certificate)
                    return user
        token = _bearer_token(request)
        if not token:
            return ANONYMOUS
        owner = await self.owner_of(token)
        if owner is None and self._verify is not None:
            owner = await self._verify(token)
        if owner is None:
            raise unauthorized()
        return owner

    def _user_of_certificate(self, certificate: dict[str, Any], transport: asyncio.BaseTransport) -> UserInfo | None:
        """Who the certificate of a connection names; None when it has no common name."""
        key = (certificate["subject"], certificate["issuer"], certificate["serialNumber"])
        if key not in self._shown:
            if len(self._shown) >= _KEPT_CERTIFICATES:
                self._shown.clear()
            whole = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
            digest = hashlib.sha256(whole).hexdigest()
            self._shown[key] = user_of_subject(certificate["subject"], f"X509SHA256={digest}")
        return self._shown[key]

    def _check_node(self, user: UserInfo, certificate: Mapping[str, Any]) -> None:
        """Raises a 401 `ApiError` for a certificate that was made before its node was removed from the cluster."""
        if not user.name.startswith(NODE_PREFIX):
            return
        node = user.name.removeprefix(NODE_PREFIX)
        voided = self._voided_until(node)
        if voided and ssl.cert_time_to_seconds(certificate["notBefore"]) + BACKDATE_SECONDS <= voided:
            raise ApiError(401, "Unauthorized", f"node {node} was removed from the cluster, its certificates are void")

    async def owner_of(self, token: str) -> UserInfo | None:
        """The owner of a token that is for this server alone, a static or a bootstrap one."""
        owner = self._static_owner_of(token)
        if owner is None and self._bootstrap is not None:
            owner = await self._bootstrap(token)
        return owner

    def _static_owner_of(self, token: str) -> UserInfo | None:
        """The owner of a static token."""
        digest = hashlib.sha256(token.encode()).digest()
        found: UserInfo | None = None
        # Every row is compared, in the same time, so that an answer's time tells nothing of the tokens.
        for known, user in self._tokens:
            if hmac.compare_digest(known, digest):
                found = user
        return found


Subject = tuple[tuple[tuple[str, str], ...], ...]
"""A certificate's subject as the `ssl` module gives it."""


def user_of_subject(subject: Subject, credential: str) -> UserInfo | None:
    """The identity that a verified certificate names; None when it has no common name.

    `credential` tells of which certificate, for audit logs and for who asks who they are.
    """
    name, groups = "", []
    for attribute, value in (pair for names in subject for pair in names):
        if attribute == "commonName":
            name = value
        elif attribute == "organizationName":
            groups.append(value)
    return replace(_authenticated(name, "", groups), extra=((CREDENTIAL_ID, (credential,)),)) if name else None


def _authenticated(name: str, uid: str, groups: list[str]) -> UserInfo:
    return UserInfo(name, uid, tuple(dict.fromkeys([*groups, ALL_AUTHENTICATED])))


def _bearer_token(request: web.BaseRequest) -> str:
    scheme, _, token = request.headers.get("Authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    # Browsers cannot set headers on a WebSocket; they may show the token as a sub-protocol.
    for protocol in request.headers.get("Sec-WebSocket-Protocol", "").split(","):
        encoded = protocol.strip()
        if encoded.startswith(_WEBSOCKET_BEARER):
            text = encoded.removeprefix(_WEBSOCKET_BEARER)
            try:
                return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
            except ValueError:
                raise ApiError(401, "Unauthorized", "the bearer sub-protocol is not base64url text") from None
    return ""


def _read_tokens(path: Path) -> Iterator[tuple[bytes, UserInfo]]:
    with path.open(newline="") as file:
        for number, row in enumerate(csv.reader(file), start=1):
            if not row:
                continue
            if len(row) < 3 or not row[0] or not row[1]:
                raise ValueError(f'{path}, line {number}: expected token,user,uid[,"group1,group2"]')
            groups = [group.strip() for group in row[3].split(",") if group.strip()] if len(row) > 3 else []
            yield hashlib.sha256(row[0].encode()).digest(), _authenticated(row[1], row[2], groups)
