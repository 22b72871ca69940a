"""A machine joins with a bootstrap token: it trusts the cluster by the token, asks for certificates, and gets them."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pyk.api import signers
from pyk.api.bootstraptokens import BootstrapToken, detached_signature
from pyk.api.kinds import BY_KIND, CERTIFICATE_SIGNING_REQUEST, CONFIG_MAP, NODE, POD, SECRET
from pyk.api.status import ApiError
from pyk.client.client import Client
from pyk.client.config import ClientConfig, load_kubeconfig
from pyk.reconcile.clock import RealClock
from tests.integration.controllers.played import Cluster, eventually
from tests.unit.certificate_requests import csr

SELF_SUBJECT_REVIEW = BY_KIND["authentication.k8s.io/v1", "SelfSubjectReview"]
USAGES = {
    signers.KUBELET_CLIENT: ["client auth", "digital signature"],
    signers.KUBELET_SERVING: ["server auth", "digital signature"],
    signers.API_CLIENT: ["client auth"],
}
NODE_USER, NODE_GROUPS = "system:node:joined", ["system:nodes"]


def token(**more: Any) -> BootstrapToken:
    both = frozenset({"authentication", "signing"})
    return replace(BootstrapToken("abcdef", "0123456789abcdef", both), **more)


def request(name: str, document: str, signer: str, **spec: Any) -> dict[str, Any]:
    types = {"apiVersion": CERTIFICATE_SIGNING_REQUEST.api_version, "kind": CERTIFICATE_SIGNING_REQUEST.kind}
    asked = {"request": document, "signerName": signer, "usages": USAGES[signer], **spec}
    return {**types, "metadata": {"name": name}, "spec": asked}


async def certificate_of(cluster: Cluster, name: str) -> bytes:
    async def issued() -> bool:
        return bool(signers.certificate_of(await cluster.client.get(CERTIFICATE_SIGNING_REQUEST, name)))

    await eventually(f"a certificate for {name}", issued)
    found = await cluster.client.get(CERTIFICATE_SIGNING_REQUEST, name)
    return base64.b64decode(signers.certificate_of(found))


async def who_is(config: ClientConfig) -> dict[str, Any]:
    question = {"apiVersion": SELF_SUBJECT_REVIEW.api_version, "kind": SELF_SUBJECT_REVIEW.kind, "metadata": {}}
    async with Client(config) as client:
        return dict((await client.create(SELF_SUBJECT_REVIEW, question))["status"]["userInfo"])


async def test_a_machine_joins_with_nothing_but_a_token(cluster: Cluster) -> None:
    admin = load_kubeconfig(cluster.kubeconfig)
    await cluster.client.create(SECRET, token(extra_groups=("system:bootstrappers:rack",)).to_secret())
    nobody = replace(admin, certificate=b"", key=b"")
    async with Client(nobody) as stranger:

        async def vouched() -> bool:
            data = (await stranger.get(CONFIG_MAP, "cluster-info", "kube-public"))["data"]
            return data.get("jws-kubeconfig-abcdef") == detached_signature(data["kubeconfig"], token())

        await eventually("the cluster's information is signed with the token", vouched)
        text = (await stranger.get(CONFIG_MAP, "cluster-info", "kube-public"))["data"]["kubeconfig"]
        cluster_of = yaml.safe_load(text)["clusters"][0]["cluster"]
        assert base64.b64decode(cluster_of["certificate-authority-data"]) == admin.ca
        with pytest.raises(ApiError):
            await stranger.get(CONFIG_MAP, "kube-root-ca.crt", "kube-public")
    joining = replace(nobody, server=cluster_of["server"], token="abcdef.0123456789abcdef")
    user = await who_is(joining)
    assert user["username"] == "system:bootstrap:abcdef"
    assert set(user["groups"]) == {"system:bootstrappers", "system:bootstrappers:rack", "system:authenticated"}
    key = ec.generate_private_key(ec.SECP256R1())
    async with Client(joining) as client:
        asked = request("first", csr(NODE_USER, NODE_GROUPS, key=key), signers.KUBELET_CLIENT, expirationSeconds=7200)
        await client.create(CERTIFICATE_SIGNING_REQUEST, asked)
        with pytest.raises(ApiError):
            await client.list(POD)
    pem = await certificate_of(cluster, "first")
    certificate = x509.load_pem_x509_certificate(pem)
    skew = timedelta(minutes=5)
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc == timedelta(seconds=7200) + skew
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    as_node = replace(nobody, certificate=pem, key=private)
    assert (await who_is(as_node))["username"] == NODE_USER
    async with Client(as_node) as node:
        status = {"addresses": [{"type": "InternalIP", "address": "10.9.9.9"}]}
        await node.create(NODE, {"metadata": {"name": "joined"}, "status": status})
        serving = csr(NODE_USER, NODE_GROUPS, dns=["joined"], addresses=["10.9.9.9"])
        await node.create(CERTIFICATE_SIGNING_REQUEST, request("serving", serving, signers.KUBELET_SERVING))
        again = csr(NODE_USER, NODE_GROUPS)
        await node.create(CERTIFICATE_SIGNING_REQUEST, request("renewal", again, signers.KUBELET_CLIENT))
        stolen = csr(NODE_USER, NODE_GROUPS, addresses=["10.1.1.1"])
        await node.create(CERTIFICATE_SIGNING_REQUEST, request("stolen", stolen, signers.KUBELET_SERVING))
    for name in ("serving", "renewal"):
        x509.load_pem_x509_certificate(await certificate_of(cluster, name)).verify_directly_issued_by(
            x509.load_pem_x509_certificate(admin.ca)
        )
    assert not (await cluster.client.get(CERTIFICATE_SIGNING_REQUEST, "stolen")).get("status")


async def test_a_person_s_certificate_waits_for_a_person(cluster: Cluster) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    asked = request("ada", csr("ada", ["people"], key=key), signers.API_CLIENT)
    await cluster.client.create(CERTIFICATE_SIGNING_REQUEST, asked)
    await cluster.kubectl("certificate", "approve", "ada")
    pem = await certificate_of(cluster, "ada")
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    user = await who_is(replace(load_kubeconfig(cluster.kubeconfig), certificate=pem, key=private))
    assert (user["username"], set(user["groups"])) == ("ada", {"people", "system:authenticated"})


async def test_a_token_ends_with_its_time_and_its_secret(cluster: Cluster) -> None:
    config = replace(load_kubeconfig(cluster.kubeconfig), certificate=b"", key=b"", token="abcdef.0123456789abcdef")

    async def is_refused() -> bool:
        try:
            await who_is(config)
        except ApiError as error:
            return error.code == 401
        return False

    assert await is_refused(), "there is no such token yet"
    await cluster.client.create(SECRET, token(expires=RealClock().time() + 1.5).to_secret())
    assert not await is_refused()

    async def is_gone() -> bool:
        return not (await cluster.client.list(SECRET, "kube-system")).items

    await eventually("the expired token is deleted", is_gone)
    assert await is_refused()
    await cluster.client.create(SECRET, token(usages=frozenset({"signing"})).to_secret())
    assert await is_refused(), "it is not for authentication"
