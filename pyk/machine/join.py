"""A machine becomes a node: with a token, a request for a certificate, and what the cluster tells its agents.

The order: trust the cluster (`discovery.py`), see that nobody else has the node's name, have a certificate issued by
request (CSR) as the node, keep it with its key and the authority. From then on the machine is `system:node:NAME` and
the token is not needed any more. Every step may be done again after a failure at any moment.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyk import csr, pki
from pyk.api import signers
from pyk.api.joining import INSTALLATION, SETTINGS, SETTINGS_NAMESPACE
from pyk.api.kinds import CERTIFICATE_SIGNING_REQUEST, CONFIG_MAP, NODE
from pyk.api.objects import Object, annotations_of, name_of
from pyk.api.status import ApiError
from pyk.client.balancer import parse_server
from pyk.client.blocking import BlockingClient, ServerUnreachable
from pyk.client.config import ClientConfig
from pyk.machine.discovery import CannotJoin, NotKnown, explain
from pyk.reconcile.clock import Clock

ANSWER_SECONDS = 60
USER_AGENT = "pyk-join"


def ask(config: ClientConfig, clock: Clock, method: str, path: str, body: Any = None) -> Any:
    """A request whose failures are told as those of joining. Raises `CannotJoin` and `ApiError`."""
    client = BlockingClient(config, user_agent=USER_AGENT)
    try:
        return client.json(method, path, body=body)
    except ServerUnreachable as error:
        raise explain(parse_server(config.server), error.__cause__ or error, clock) from None
    except ApiError as error:
        if error.code == 401:
            raise NotKnown(f"{config.server} refuses this machine: {error.message}") from None
        raise
    finally:
        client.close()


def join(config: ClientConfig, node: str, installation: str, folder: Path, client_file: Path, clock: Clock) -> None:
    """Have a certificate for the node issued, and keep it in `client_file`, the authority in `folder`/ca.crt.

    `config` is the token's bearer. Raises `CannotJoin`.
    """
    try:
        check_name(ask(config, clock, "GET", NODE.path("", node)), installation)
    except ApiError as error:
        if error.code != 404:
            raise CannotJoin(f"the control plane refused: {error.message}") from None
    key, request = csr.make_request(node)
    try:
        made = ask(
            config,
            clock,
            "POST",
            CERTIFICATE_SIGNING_REQUEST.path(),
            csr.request_object(request, signers.KUBELET_CLIENT),
        )
        certificate = _await_certificate(config, made)
    except ApiError as error:
        raise CannotJoin(f"the control plane refused: {error.message}") from None
    except csr.Refused as error:
        raise CannotJoin(f"the request for a certificate of node {node} was {error}") from None
    pki.write_whole(folder / "ca.crt", config.ca, mode=0o644)
    csr.write(client_file, certificate, key)


def check_name(node: Object, installation: str) -> None:
    """Raises `CannotJoin` when the Node is another machine's."""
    if annotations_of(node).get(INSTALLATION, "") != installation:
        name = name_of(node)
        raise CannotJoin(
            f"the cluster has a node {name} on another machine: choose another --node-name, or remove that node with "
            f"'pyk node rm {name}' first"
        )


def settings(config: ClientConfig, clock: Clock) -> dict[str, str]:
    """What the cluster tells its agents. Raises `CannotJoin`."""
    try:
        found = ask(config, clock, "GET", CONFIG_MAP.path(SETTINGS_NAMESPACE, SETTINGS))
    except ApiError as error:
        raise CannotJoin(f"{config.server} tells nothing of its cluster: {error.message}") from None
    return {str(key): str(value) for key, value in (found.get("data") or {}).items()}


def server_version(config: ClientConfig, clock: Clock) -> str:
    """The server's version. Raises `CannotJoin`."""
    return str(ask(config, clock, "GET", "/version")["gitVersion"])


def as_node(config: ClientConfig, client_file: Path) -> ClientConfig:
    """The same cluster, seen as the node whose certificate is in the file."""
    return replace(config, token="", certificate_file=client_file, key_file=client_file)


def default_node_name() -> str:
    """The machine's host name, as a node's name has to be."""
    return socket.gethostname().lower()


def _await_certificate(config: ClientConfig, request: Mapping[str, Any]) -> bytes:
    """The certificate, as soon as it is issued. Raises `CannotJoin`, `csr.Refused` and `ApiError`."""
    client = BlockingClient(config, user_agent=USER_AGENT)
    found: dict[str, Any] = dict(request)
    params = {
        "watch": "true",
        "fieldSelector": f"metadata.name={name_of(found)}",
        "resourceVersion": found["metadata"]["resourceVersion"],
        "timeoutSeconds": str(ANSWER_SECONDS),
    }
    try:
        for line in client.lines(CERTIFICATE_SIGNING_REQUEST.path(), params=params):
            event = json.loads(line)
            if event["type"] == "ERROR":
                break
            if certificate := csr.issued(event["object"]):
                return certificate
    except (ServerUnreachable, ssl.SSLError, http.client.HTTPException) as error:
        raise CannotJoin(str(error)) from None
    finally:
        client.close()
    raise CannotJoin(
        f"no certificate came in {ANSWER_SECONDS} s: is the controller manager running, and may the token ask? "
        f"See 'kubectl describe csr {name_of(found)}'"
    )
