"""Who the proxy is by TLS, and what an Ingress is told of itself."""

from __future__ import annotations

import base64
import socket
import ssl
import threading
from typing import Any

import pytest

from ingress.certificates import Certificates, own_pair, wanted_by
from ingress.endpoints import Upstream
from ingress.status import addresses, decide, problems_of, writer
from pyk.reconcile.actions import Emit, Patch
from pyk.reconcile.clock import VirtualClock

CLOCK = VirtualClock()


def secret(pair: tuple[bytes, bytes] | None = None, **data: bytes) -> dict[str, Any]:
    chain, key = pair or own_pair(CLOCK)
    held = {"tls.crt": chain, "tls.key": key, **data}
    return {"data": {name: base64.b64encode(value).decode() for name, value in held.items()}}


def ingress(name: str, *tls: dict[str, Any], hosts: tuple[str, ...] = ()) -> dict[str, Any]:
    rules = [{"host": host} for host in hosts]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": name, "namespace": "d", "uid": "u"},
        "spec": {"tls": list(tls), "rules": rules},
    }


def test_hosts_get_the_certificate_of_their_ingress() -> None:
    certificates = Certificates(CLOCK, default_secret="d/default")
    secrets = {f"d/{name}": secret() for name in ("a", "wild", "default")}
    certificates.update(
        [
            ingress("one", {"hosts": ["a.example"], "secretName": "a"}),
            ingress("two", {"hosts": ["*.example"], "secretName": "wild"}),
        ],
        secrets.get,
    )
    named, wild = certificates.context_for("A.example"), certificates.context_for("b.example")
    default = certificates.context_for("other.test")
    assert len({named, wild, default}) == 3
    assert certificates.context_for("x.b.example") is default
    assert certificates.context_for(None) is default
    assert certificates.problems == {}
    certificates.update([ingress("one", {"hosts": ["a.example"], "secretName": "a"})], secrets.get)
    assert certificates.context_for("a.example") is named, "what stays the same is not made again"
    secrets["d/a"] = secret()
    certificates.update([ingress("one", {"hosts": ["a.example"], "secretName": "a"})], secrets.get)
    assert certificates.context_for("a.example") is not named


def test_an_entry_without_hosts_is_for_those_of_the_rules() -> None:
    (wanted,) = wanted_by(ingress("one", {"secretName": "a"}, {"hosts": ["x"]}, hosts=("a.example", "b.example")))
    assert (wanted.secret, wanted.hosts) == ("d/a", ("a.example", "b.example"))


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (None, "there is no such secret"),
        ({"data": {}}, "it has no key 'tls.crt'"),
        ({"data": {"tls.crt": "?", "tls.key": ""}}, "its data is not base64"),
        (secret(**{"tls.crt": b"nonsense"}), "cannot be used"),
        (secret((own_pair(CLOCK)[0], own_pair(CLOCK)[1])), "cannot be used"),
    ],
)
def test_a_secret_that_cannot_be_used_is_told_of(found: Any, problem: str) -> None:
    certificates = Certificates(CLOCK)
    certificates.update([ingress("one", {"hosts": ["a.example"], "secretName": "a"})], lambda name: found)
    assert problem in certificates.problems["d/one"]["d/a"]
    assert certificates.context_for("a.example") is certificates.context_for("")


def test_a_client_is_shown_the_certificate_for_the_name_that_it_asks_for() -> None:
    chain, key = own_pair(CLOCK)
    certificates = Certificates(CLOCK)
    secrets = {"d/a": secret((chain, key))}
    certificates.update([ingress("one", {"hosts": ["a.example"], "secretName": "a"})], secrets.get)

    def shown(name: str | None) -> bytes:
        """The certificate that a client is shown, as DER."""
        ours, theirs = socket.socketpair()
        server = threading.Thread(target=lambda: certificates.listener.wrap_socket(ours, server_side=True).close())
        server.start()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with context.wrap_socket(theirs, server_hostname=name) as client:
            found = client.getpeercert(binary_form=True)
        server.join()
        assert found is not None
        return found

    assert shown("a.example") == ssl.PEM_cert_to_DER_cert(chain.decode())
    assert shown("b.example") == shown(None) != shown("a.example")


def pod(name: str, node: str, ready: str = "True") -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": ready}]
    return {"metadata": {"name": name}, "status": {"hostIP": node, "conditions": conditions}}


def test_an_ingress_is_reached_at_the_load_balancer_or_the_nodes_of_the_proxy() -> None:
    pods = [pod("b", "10.0.0.2"), pod("a", "10.0.0.1"), pod("c", "10.0.0.3", "False")]
    assert addresses(None, pods) == [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]
    balanced = {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "VIP"}]}}}
    assert addresses(balanced, pods) == [{"ip": "192.0.2.1"}]
    assert writer(pods) == "a"
    assert writer([]) is None


def test_a_status_is_written_when_it_differs() -> None:
    shown = [{"ip": "10.0.0.1"}]
    patch, told = decide(ingress("one"), shown)
    assert isinstance(patch, Patch)
    assert (patch.patch, patch.subresource) == ({"status": {"loadBalancer": {"ingress": shown}}}, "status")
    assert isinstance(told, Emit)
    assert decide({**ingress("one"), "status": {"loadBalancer": {"ingress": shown}}}, shown) == []


def test_people_are_told_of_what_cannot_be_served() -> None:
    broken = ingress("one")
    broken["spec"]["defaultBackend"] = {"service": {"name": "web", "port": {"number": 80}}}
    missing = problems_of(broken, lambda backend: Upstream(problem="no service", is_found=False), {"d/a": "is bad"})
    assert [(each.reason, each.message) for each in missing if isinstance(each, Emit)] == [
        ("BadCertificate", "secret d/a: is bad"),
        ("BackendNotFound", "no service"),
    ]
    assert problems_of(broken, lambda backend: Upstream(problem="nobody is ready"), {}) == []
