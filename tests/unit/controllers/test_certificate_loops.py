"""Requests for certificates: which are approved, what is signed for how long, and when they go."""

from __future__ import annotations

import base64
import math
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from controlplane.controllers import csrapproving, csrcleaning, csrsigning
from pyk import pki
from pyk.api import signers
from pyk.reconcile.clock import timestamp
from tests.unit.certificate_requests import csr

NOW = 1_750_000_000.0
KUBELET_USAGES = ["digital signature", "client auth"]
SERVING_USAGES = ["digital signature", "key encipherment", "server auth"]
APPROVED = {"type": "Approved", "status": "True", "lastUpdateTime": timestamp(NOW)}


def request(signer: str, document: str, usages: list[str], maker: str = "system:bootstrap:abcdef", **more: Any) -> Any:
    spec = {"request": document, "signerName": signer, "usages": usages, "username": maker, **more}
    metadata = {"name": "x", "uid": "u", "creationTimestamp": timestamp(NOW)}
    types = {"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest"}
    return {**types, "metadata": metadata, "spec": spec, "status": {}}


def node(name: str, *addresses: str) -> Any:
    listed = [{"type": "InternalIP", "address": address} for address in addresses]
    return {"metadata": {"name": name}, "status": {"addresses": listed}}


def kubelet(user: str = "system:node:n1", groups: tuple[str, ...] = ("system:nodes",), **names: Any) -> str:
    return csr(user, groups, **names)


def recognized(found: Any, *nodes: Any) -> list[str]:
    return [each.subresource for each in csrapproving.recognize(found, nodes)]


def test_a_first_certificate_is_recognized_and_a_renewal_more_particularly() -> None:
    first = request(signers.KUBELET_CLIENT, kubelet(), KUBELET_USAGES)
    renewal = request(signers.KUBELET_CLIENT, kubelet(), [*KUBELET_USAGES, "key encipherment"], "system:node:n1")
    assert recognized(first) == ["nodeclient"]
    assert recognized(renewal) == ["selfnodeclient", "nodeclient"]


@pytest.mark.parametrize(
    "wrong",
    [
        request(signers.KUBELET_CLIENT, kubelet(groups=("system:masters",)), KUBELET_USAGES),
        request(signers.KUBELET_CLIENT, kubelet("system:admin"), KUBELET_USAGES),
        request(signers.KUBELET_CLIENT, kubelet(dns=["n1"]), KUBELET_USAGES),
        request(signers.KUBELET_CLIENT, kubelet(), SERVING_USAGES),
        request(signers.API_CLIENT, kubelet(), KUBELET_USAGES),
        request("example.com/mine", kubelet(), KUBELET_USAGES),
        request(signers.KUBELET_CLIENT, base64.b64encode(b"nothing").decode(), KUBELET_USAGES),
    ],
)
def test_everything_else_waits_for_a_person(wrong: Any) -> None:
    assert recognized(wrong) == []


def test_a_serving_certificate_is_for_addresses_that_the_node_has_and_no_other_claims() -> None:
    def asks(maker: str = "system:node:n1", **names: Any) -> Any:
        return request(signers.KUBELET_SERVING, kubelet(**names), SERVING_USAGES, maker)

    nodes = (node("n1", "10.0.0.1"), node("n2", "10.0.0.2"))
    assert recognized(asks(dns=["n1"], addresses=["10.0.0.1"]), *nodes) == ["selfnodeserver"]
    assert recognized(asks(addresses=["10.0.0.2"]), *nodes) == []
    assert recognized(asks(dns=["n2"]), *nodes) == []
    assert recognized(asks(addresses=["10.0.0.1"])) == [], "its Node is not there yet"
    thief = (node("n1", "10.0.0.1", "10.0.0.2"), node("n2", "10.0.0.2"))
    assert recognized(asks(addresses=["10.0.0.2"]), *thief) == []
    assert recognized(asks("system:node:n2", addresses=["10.0.0.1"]), *nodes) == []


def test_an_approval_says_why() -> None:
    found = request(signers.KUBELET_CLIENT, kubelet(), KUBELET_USAGES)
    (action,) = csrapproving.decide(found, csrapproving.CLIENT, NOW)
    (condition,) = action.obj["status"]["conditions"]
    assert (action.subresource, condition["type"], condition["reason"]) == ("approval", "Approved", "AutoApproved")
    assert condition["message"] == "Auto approving kubelet client certificate after SubjectAccessReview."
    assert csrapproving.decide(found, None, NOW) == []


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> pki.RequestSigner:
    folder: Path = tmp_path_factory.mktemp("pki")
    pki.create_ca(folder)
    return pki.RequestSigner(folder / "ca.crt", folder / "ca.key")


def approved(*args: Any, **more: Any) -> Any:
    return {**request(*args, **more), "status": {"conditions": [APPROVED]}}


def signed(found: Any, authority: pki.RequestSigner, now: float) -> x509.Certificate:
    (action,) = csrsigning.decide(found, authority, now)
    return x509.load_pem_x509_certificate(base64.b64decode(action.obj["status"]["certificate"]))


def test_a_certificate_has_what_was_asked_for(authority: pki.RequestSigner) -> None:
    import time

    now = float(int(time.time()))
    document = kubelet(dns=["n1"], addresses=["10.0.0.1"])
    certificate = signed(
        approved(signers.KUBELET_SERVING, document, SERVING_USAGES, expirationSeconds=3600), authority, now
    )
    assert signers.common_name(certificate) == "system:node:n1"  # type: ignore[arg-type]
    assert signers.alternative_names(certificate)[:2] == (["n1"], ["10.0.0.1"])  # type: ignore[arg-type]
    assert certificate.not_valid_after_utc.timestamp() == now + 3600
    assert certificate.not_valid_before_utc.timestamp() == now - signers.BACKDATE_SECONDS
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.digital_signature, usage.key_encipherment, usage.key_cert_sign) == (True, True, False)
    purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [purpose.dotted_string for purpose in purposes] == ["1.3.6.1.5.5.7.3.1"]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


@pytest.mark.parametrize(
    ("asked", "lasts"),
    [(None, 365 * 86400 - 300), (10 * 365 * 86400, 365 * 86400 - 300), (60, 600), (8 * 3600 - 1, 8 * 3600 - 1)],
)
def test_how_long_a_certificate_is_good(asked: int | None, lasts: int) -> None:
    assert csrsigning.validity(asked, NOW) == (NOW - 300, NOW + lasts)


def test_what_its_signer_must_not_sign_fails(authority: pki.RequestSigner) -> None:
    found = approved(signers.KUBELET_CLIENT, kubelet(groups=()), KUBELET_USAGES)
    (action,) = csrsigning.decide(found, authority, NOW)
    failed = action.obj["status"]["conditions"][-1]
    assert (failed["type"], failed["reason"]) == ("Failed", "SignerValidationFailure")
    assert failed["message"] == "subject organization is not system:nodes"
    usages = approved(signers.API_CLIENT, csr("ada"), SERVING_USAGES)
    (action,) = csrsigning.decide(usages, authority, NOW)
    assert action.obj["status"]["conditions"][-1]["message"] == "invalid usage for client certificate: server auth"


def test_what_is_not_approved_or_somebody_else_s_is_not_signed(authority: pki.RequestSigner) -> None:
    pending = request(signers.API_CLIENT, csr("ada"), KUBELET_USAGES)
    denied = {**pending, "status": {"conditions": [{"type": "Denied", "status": "True"}]}}
    foreign = approved("example.com/mine", csr("ada"), KUBELET_USAGES)
    issued = {**pending, "status": {"conditions": [APPROVED], "certificate": "eA=="}}
    for found in (pending, denied, foreign, issued):
        assert csrsigning.decide(found, authority, NOW) == []


def test_requests_go_when_nobody_needs_them() -> None:
    pending = request(signers.API_CLIENT, csr("ada"), KUBELET_USAGES)
    denied = {**pending, "status": {"conditions": [{**APPROVED, "type": "Denied"}]}}
    issued = {**pending, "status": {"conditions": [APPROVED], "certificate": "eA=="}}
    forever = {**pending, "status": {"conditions": [{"type": "Odd", "status": "True"}]}}
    ages = [csrcleaning.deadline(each) - NOW for each in (pending, denied, issued, forever)]
    assert ages == [86400, 3600, 3600, math.inf]
    assert csrcleaning.decide(denied, NOW + 3599) == []
    assert len(csrcleaning.decide(denied, NOW + 3600)) == 1
