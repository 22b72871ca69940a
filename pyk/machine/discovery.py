"""Finding out whom to trust, with nothing but a token: the cluster's authority, and a server that answers.

1. The ConfigMap `cluster-info` is fetched over TLS that is not verified: everybody may read it, and nothing is sent.
2. The authority in it has to have the hash that the token names; so it is the cluster's, whoever answered.
3. The ConfigMap has to be signed with the token's secret; so the token is known there, which is what a person who
   mistyped it, or whose token expired, is told.
4. From then on everything is verified, and only now the token is sent.

Clocks are compared by the answer's Date, because a clock that is an hour off makes good certificates look bad, and the
error of TLS does not say so. Source: kubeadm's token-based discovery.
"""

from __future__ import annotations

import base64
import hmac
import http.client
import json
import ssl
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import yaml

from pyk.api.bootstraptokens import (
    CLUSTER_INFO,
    CLUSTER_INFO_NAMESPACE,
    KUBECONFIG_KEY,
    SIGNATURE_PREFIX,
    BootstrapToken,
    detached_signature,
)
from pyk.api.kinds import CONFIG_MAP
from pyk.client.balancer import Server, url_of
from pyk.client.config import ClientConfig
from pyk.errors import UserError
from pyk.machine.authority import hash_of
from pyk.machine.token import JoinToken
from pyk.reconcile.clock import Clock

TIMEOUT_SECONDS = 5.0
SKEW_SECONDS = 300.0
"""By so much certificates are backdated; clocks that differ by less do no harm."""
SIGNATURE_SECONDS = 5.0
"""How long after its making a token may still be unsigned."""
_PAUSE_SECONDS = 0.25


class CannotJoin(UserError):
    """The machine cannot become part of the cluster; the text says why in one line."""


class NotKnown(CannotJoin):
    """The cluster does not accept what the machine shows."""


class Unreachable(CannotJoin):
    """None of the servers answers."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said. `date` is its clock, in seconds since the epoch; 0 when it did not tell."""

    status: int
    body: bytes
    date: float


def discover(servers: Sequence[Server], token: JoinToken, clock: Clock) -> ClientConfig:
    """How to reach the cluster as the bearer of the token, verified. Raises `CannotJoin`."""
    deadline = clock.monotonic() + SIGNATURE_SECONDS
    while True:
        server, data, date = _cluster_info(servers)
        authority = _authority(data, server, token)
        check_clock(date, clock)
        problem = _signature_problem(data, token)
        if not problem:
            return ClientConfig(url_of(server), ca=authority, token=token.bearer)
        if f"{SIGNATURE_PREFIX}{token.id}" in data or clock.monotonic() >= deadline:
            raise CannotJoin(problem)
        threading.Event().wait(_PAUSE_SECONDS)


def check_clock(date: float, clock: Clock) -> None:
    """Raises `CannotJoin` when this machine's clock and the server's, in seconds since the epoch, are far apart."""
    off = clock.time() - date
    if date and abs(off) > SKEW_SECONDS:
        side = "ahead of" if off > 0 else "behind"
        raise CannotJoin(
            f"this machine's clock is {abs(off):.0f} s {side} the control plane's: set it right "
            "('timedatectl set-ntp true'), then start again"
        )


def explain(server: Server, error: BaseException, clock: Clock) -> CannotJoin:
    """Why a verified connection failed: clocks, a name that the certificate lacks, another authority, or the net."""
    if not isinstance(error, ssl.SSLCertVerificationError):
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Unreachable(f"the control plane at {url_of(server)} cannot be reached: {reason}")
    try:
        check_clock(fetch(server, "/version", _unverified()).date, clock)
    except CannotJoin as found:
        return found
    except (OSError, http.client.HTTPException):
        pass  # it went away; what TLS said still holds
    if "mismatch" in error.verify_message.lower() or "not valid for" in error.verify_message.lower():
        return CannotJoin(
            f"the control plane's certificate is not for {server[0]}: use an address that it knows, or start it with "
            f"--tls-san {server[0]}"
        )
    if "expired" in error.verify_message.lower():
        return CannotJoin(f"the certificate of {url_of(server)} has expired: restart 'pyk server' there to renew it")
    return CannotJoin(f"{url_of(server)} does not belong to this cluster, its certificate says: {error.verify_message}")


def fetch(server: Server, path: str, context: ssl.SSLContext, token: str = "") -> Answer:
    """GET a path. Raises OSError and `http.client.HTTPException`."""
    connection = http.client.HTTPSConnection(*server, timeout=TIMEOUT_SECONDS, context=context)
    try:
        headers = {"Accept": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return Answer(response.status, response.read(), _date(response.getheader("Date") or ""))
    finally:
        connection.close()


def _cluster_info(servers: Sequence[Server]) -> tuple[Server, dict[str, str], float]:
    path = CONFIG_MAP.path(CLUSTER_INFO_NAMESPACE, CLUSTER_INFO)
    problems = []
    for server in servers:
        try:
            answer = fetch(server, path, _unverified())
            document: Any = json.loads(answer.body)
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            problems.append(f"{url_of(server)}: {reason}")
            continue
        except ValueError:
            problems.append(f"{url_of(server)}: that is no Kubernetes API server")
            continue
        if answer.status != 200:
            told = document.get("message") if isinstance(document, dict) else ""
            problems.append(f"{url_of(server)}: {told or f'status {answer.status}'}")
            continue
        return server, dict(document.get("data") or {}), answer.date
    raise Unreachable(f"the control plane cannot be reached: {'; '.join(problems)}")


def _authority(data: dict[str, str], server: Server, token: JoinToken) -> bytes:
    try:
        cluster = yaml.safe_load(data[KUBECONFIG_KEY])["clusters"][0]["cluster"]
        authority = base64.b64decode(cluster["certificate-authority-data"])
        found = hash_of(authority)
    except (KeyError, IndexError, TypeError, ValueError, yaml.YAMLError):
        raise CannotJoin(f"{url_of(server)} tells nothing usable of its cluster") from None
    if found != token.ca_hash:
        raise CannotJoin(
            f"{url_of(server)} is not of the cluster that the token is for: its authority's hash is {found}, the token "
            f"names {token.ca_hash}"
        )
    return authority


def _signature_problem(data: dict[str, str], token: JoinToken) -> str:
    signature = data.get(f"{SIGNATURE_PREFIX}{token.id}")
    if signature is None:
        return (
            f"the cluster knows no token {token.id}: it has expired, was deleted or never was; make one with "
            "'pyk token create' on the control plane"
        )
    own = detached_signature(data[KUBECONFIG_KEY], BootstrapToken(token.id, token.secret, frozenset()))
    if not hmac.compare_digest(own, signature):
        return f"the secret of the token {token.id} is wrong: use the whole text that 'pyk token create' printed"
    return ""


def _unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _date(text: str) -> float:
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    return (moment if moment.tzinfo else datetime.combine(moment.date(), moment.time(), UTC)).timestamp()
