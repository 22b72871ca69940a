"""Tokens of service accounts: signed JWTs that live as long as their account and what they are bound to.

`issue` signs one, `verify` tells whose it is. A token is good for its audiences and until it expires; it is refused as
soon as its account, or the pod, secret or node that it is bound to, is gone or has been made anew (the uid differs).
An object that is being deleted counts as gone `_LEEWAY_SECONDS` after its deadline. Signatures that were found right
are remembered; that the objects are still there is looked up each time, in the watch cache, and told as missing only
after the cache has caught up. Keys are published as a JWK set behind an OIDC discovery document.

Sources: the Kubernetes documentation on service account tokens; RFC 7519 (JWT), RFC 7517 (JWK); OIDC Discovery 1.0.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import uuid
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from jwt.types import Options

from controlplane.apiserver.authentication import ALL_AUTHENTICATED, CREDENTIAL_ID, UserInfo, service_account_groups
from controlplane.apiserver.rbac import service_account_user
from controlplane.apiserver.watchcache import WatchCache
from pyk.api.kinds import NODE, POD, SECRET, SERVICE_ACCOUNT, Kind
from pyk.api.objects import Object, name_of, namespace_of, uid_of
from pyk.reconcile.clock import Clock, parse_timestamp

DEFAULT_ISSUER = "https://kubernetes.default.svc.cluster.local"
JWKS_PATH = "/openid/v1/jwks"
DISCOVERY_PATH = "/.well-known/openid-configuration"
BOUND_KINDS = {"Pod": POD, "Secret": SECRET, "Node": NODE}
"""What a token may be bound to."""
_PRIVATE = "kubernetes.io"
"""The claim that holds what is Kubernetes' own."""
_LEEWAY_SECONDS = 60.0
_REMEMBERED = 4096
_SIGNATURE_ONLY: Options = {
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
    "require": ["exp", "sub"],
}
"""Times and audiences are checked by our clock and against what is asked."""

log = logging.getLogger(__name__)


class InvalidToken(Exception):
    """The token is nobody's, or nobody's any more; the text says why."""


class SigningKey:
    """The key pair that signs: an EC P-256 or RSA key in a PEM file. Raises OSError, and ValueError for others."""

    def __init__(self, file: Path) -> None:
        private = load_pem_private_key(file.read_bytes(), password=None)
        if isinstance(private, EllipticCurvePrivateKey) and private.curve.name == "secp256r1":
            self.algorithm = "ES256"
        elif isinstance(private, RSAPrivateKey):
            self.algorithm = "RS256"
        else:
            raise ValueError(f"{file}: service account tokens are signed with an EC P-256 or RSA key")
        self._private = private
        self.public = private.public_key()
        encoded = self.public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.id = base64.urlsafe_b64encode(hashlib.sha256(encoded).digest()).decode().rstrip("=")

    def sign(self, claims: dict[str, Any]) -> str:
        return jwt.encode(claims, self._private, algorithm=self.algorithm, headers={"kid": self.id})

    def read(self, token: str) -> dict[str, Any]:
        """The claims of a token that this key signed. Raises `InvalidToken`."""
        try:
            claims: dict[str, Any] = jwt.decode(
                token, self.public, algorithms=[self.algorithm], options=_SIGNATURE_ONLY
            )
        except jwt.InvalidTokenError as error:
            raise InvalidToken(str(error)) from None
        return claims

    def jwks(self) -> dict[str, Any]:
        """The public key as a JWK set."""
        algorithm = jwt.get_algorithm_by_name(self.algorithm)
        key = {**algorithm.to_jwk(self.public, as_dict=True), "use": "sig", "kid": self.id, "alg": self.algorithm}
        key.pop("key_ops", None)
        return {"keys": [key]}


class ServiceAccountTokens:
    """Issues and verifies. `issuer` is also the audience of the API server itself."""

    def __init__(self, key: SigningKey, cache: WatchCache, clock: Clock, issuer: str = DEFAULT_ISSUER) -> None:
        self._key = key
        self._cache = cache
        self._clock = clock
        self.issuer = issuer
        self.api_audiences = (issuer,)
        self._read: dict[bytes, dict[str, Any]] = {}

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._clock.time()

    def issue(
        self, account: Object, audiences: Sequence[str], seconds: int, bound: Object | None, node: Object | None
    ) -> tuple[str, float]:
        """A token and when it expires, in seconds since the epoch.

        `bound` is the Pod, Secret or Node that it lives with; `node` the node of a bound pod.
        """
        now = int(self._clock.time())
        private: dict[str, Any] = {"namespace": namespace_of(account), "serviceaccount": _reference(account)}
        if bound is not None:
            private[str(bound["kind"]).lower()] = _reference(bound)
        if node is not None:
            private["node"] = _reference(node)
        claims = {
            "aud": list(audiences),
            "exp": now + seconds,
            "iat": now,
            "iss": self.issuer,
            "jti": str(uuid.UUID(int=self._clock.random.getrandbits(128), version=4)),
            _PRIVATE: private,
            "nbf": now,
            "sub": service_account_user(namespace_of(account), name_of(account)),
        }
        return self._key.sign(claims), float(now + seconds)

    async def verify(self, token: str, audiences: Collection[str] = ()) -> tuple[UserInfo, list[str]]:
        """Whose token it is, and which of the audiences (the API server's when empty) it is for.

        Raises `InvalidToken`.
        """
        claims = self._claims(token)
        if claims.get("iss") != self.issuer:
            raise InvalidToken("the token is of another issuer")
        now = self._clock.time()
        if now >= claims["exp"]:
            raise InvalidToken("service account token has expired")
        if now < claims.get("nbf", 0):
            raise InvalidToken("service account token is not valid yet")
        wanted, given = audiences or self.api_audiences, claims.get("aud") or ()
        matched = [audience for audience in wanted if audience in given]
        if not matched:
            shown = " ".join(given), " ".join(wanted)
            raise InvalidToken(f"token audiences [{shown[0]}] is invalid for the target audiences [{shown[1]}]")
        private = claims.get(_PRIVATE) or {}
        namespace = str(private.get("namespace") or "")
        for kind, reference in _bound(private):
            if self._is_gone(kind, namespace, reference, now):
                await self._cache.catch_up()
                if self._is_gone(kind, namespace, reference, now):
                    raise InvalidToken(f"the {kind.singular} that the token is bound to is gone")
        return _user(claims, private, namespace), matched

    def _claims(self, token: str) -> dict[str, Any]:
        digest = hashlib.sha256(token.encode()).digest()
        claims = self._read.get(digest)
        if claims is None:
            claims = self._key.read(token)
            if len(self._read) >= _REMEMBERED:
                self._read.clear()
            self._read[digest] = claims
        return claims

    def _is_gone(self, kind: Kind, namespace: str, reference: dict[str, Any], now: float) -> bool:
        found = self._cache.lookup(kind, namespace, str(reference["name"]))
        if found is None or uid_of(found) != reference["uid"]:
            return True
        deadline = found["metadata"].get("deletionTimestamp")
        return deadline is not None and parse_timestamp(deadline) + _LEEWAY_SECONDS < now

    async def owner_of(self, token: str) -> UserInfo | None:
        """Whose token for the API server it is; None when it is no good one."""
        try:
            return (await self.verify(token))[0]
        except InvalidToken as error:
            log.debug("a bearer token was refused: %s", error)
            return None

    def discovery(self, jwks_uri: str) -> dict[str, Any]:
        """The OIDC discovery document."""
        return {
            "issuer": self.issuer,
            "jwks_uri": jwks_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [self._key.algorithm],
        }

    def jwks(self) -> dict[str, Any]:
        return self._key.jwks()


class IssuerDocuments:
    """What others need to verify tokens themselves. `address` is where they reach this server."""

    def __init__(self, tokens: ServiceAccountTokens, address: str) -> None:
        self._tokens = tokens
        self._host = f"[{address}]" if ":" in address else address

    def at(self, path: str, port: int) -> tuple[bytes, str] | None:
        """The document at a path and its media type; None when there is none. `port` is the server's."""
        if path.rstrip("/") == DISCOVERY_PATH:
            uri = f"https://{self._host}:{port}{JWKS_PATH}"
            return orjson.dumps(self._tokens.discovery(uri)), "application/json"
        if path == JWKS_PATH:
            return orjson.dumps(self._tokens.jwks()), "application/jwk-set+json"
        return None


def _reference(obj: Object) -> dict[str, str]:
    return {"name": name_of(obj), "uid": uid_of(obj)}


def _bound(private: dict[str, Any]) -> Iterator[tuple[Kind, dict[str, Any]]]:
    """What a token lives with: its account, and what it is bound to. The node of a bound pod is only told."""
    yield SERVICE_ACCOUNT, private.get("serviceaccount") or {"name": "", "uid": ""}
    for kind in (POD, SECRET, NODE):
        reference = private.get(kind.singular)
        if reference and not (kind is NODE and "pod" in private):
            yield kind, reference


def _user(claims: dict[str, Any], private: dict[str, Any], namespace: str) -> UserInfo:
    extra: list[tuple[str, tuple[str, ...]]] = []
    if claims.get("jti"):
        extra.append((CREDENTIAL_ID, (f"JTI={claims['jti']}",)))
    for kind in ("node", "pod"):
        if reference := private.get(kind):
            extra.append((f"authentication.kubernetes.io/{kind}-name", (str(reference["name"]),)))
            extra.append((f"authentication.kubernetes.io/{kind}-uid", (str(reference["uid"]),)))
    groups = (*service_account_groups(namespace), ALL_AUTHENTICATED)
    return UserInfo(str(claims["sub"]), str(private["serviceaccount"]["uid"]), groups, tuple(extra))
