"""Requests for certificates with the unmodified kubectl, and the rights that deciding and signing take."""

from __future__ import annotations

from typing import Any

import yaml

from pyk.api import signers
from tests.integration.apiserver.conftest import Server
from tests.unit.certificate_requests import csr

REQUESTS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
SHAM = {"system:masters", "system:authenticated"}


def request(name: str, document: str, signer: str = signers.API_CLIENT, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": name},
        "spec": {"request": document, "signerName": signer, "usages": ["client auth"], **spec},
    }


async def test_a_request_carries_its_maker_and_nobody_may_say_otherwise(server: Server) -> None:
    sham = request("ada", csr("ada"), username="root", groups=["gods"], extra={"a": ["b"]})
    made = await server.api("POST", REQUESTS, sham)
    assert made.status == 201, made.raw
    spec = dict(made.body["spec"])
    assert (spec["username"], set(spec["groups"])) == ("kubernetes-admin", SHAM)
    assert set(spec["extra"]) == {"authentication.kubernetes.io/credential-id"}
    made.body["spec"]["usages"] = ["server auth"]
    made.body["status"] = {"conditions": [{"type": "Approved", "status": "True"}]}
    changed = await server.api("PUT", f"{REQUESTS}/ada", made.body)
    assert (changed.status, changed.body["spec"], changed.body["status"]) == (200, spec, {})


async def test_kubectl_approves_and_denies(server: Server) -> None:
    for name in ("ada", "eve"):
        status, _, error = await server.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(request(name, csr(name))))
        assert status == 0, error
    for verb, name in (("approve", "ada"), ("deny", "eve")):
        status, out, error = await server.kubectl("certificate", verb, name)
        word = {"approve": "approved", "deny": "denied"}[verb]
        assert (status, out) == (0, f"certificatesigningrequest.certificates.k8s.io/{name} {word}\n"), error
    conditions = (await server.api("GET", f"{REQUESTS}/ada")).body["status"]["conditions"]
    assert [(each["type"], each["reason"]) for each in conditions] == [("Approved", "KubectlApprove")]
    assert conditions[0]["lastUpdateTime"]
    assert conditions[0]["lastTransitionTime"]
    _, out, _ = await server.kubectl("get", "csr", "--field-selector", f"spec.signerName={signers.API_CLIENT}")
    rows = {line.split()[0]: line.split()[-1] for line in out.splitlines()[1:]}
    assert rows == {"ada": "Approved", "eve": "Denied"}
    status, _, error = await server.kubectl("certificate", "approve", "eve")
    assert status != 0, "what is denied stays denied"


async def test_deciding_and_signing_take_verbs_on_the_signer(server: Server) -> None:
    await server.api("POST", REQUESTS, request("ada", csr("ada"), "example.com/mine"))
    rules = [
        {
            "verbs": ["update", "patch", "get"],
            "apiGroups": ["certificates.k8s.io"],
            "resources": ["certificatesigningrequests/approval", "certificatesigningrequests/status"],
        }
    ]
    roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles"
    role = {"metadata": {"name": "clerk"}, "rules": rules}
    assert (await server.api("POST", roles, role)).status == 201
    binding = {
        "metadata": {"name": "clerk"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "clerk"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bob"}],
    }
    assert (await server.api("POST", roles.replace("roles", "rolebindings"), binding)).status == 201
    as_bob = {"Impersonate-User": "bob", "Content-Type": "application/merge-patch+json"}
    approval = {"status": {"conditions": [{"type": "Approved", "status": "True", "reason": "x"}]}}
    failure = {"status": {"conditions": [{"type": "Failed", "status": "True", "reason": "x"}]}}
    for verb, part, patch in (("approve", "approval", approval), ("sign", "status", failure)):
        path = f"{REQUESTS}/ada/{part}"
        refused = await server.api("PATCH", path, patch, headers=as_bob)
        assert (refused.status, refused.message) == (
            403,
            'certificatesigningrequests.certificates.k8s.io "ada" is forbidden: '
            f'user not permitted to {verb} requests with signerName "example.com/mine"',
        )
        signer = {
            "verbs": [verb],
            "apiGroups": ["certificates.k8s.io"],
            "resources": ["signers"],
            "resourceNames": ["example.com/*"],
        }
        rules.append(signer)
        assert (await server.api.patch(f"{roles}/clerk", {"rules": rules})).status == 200
        granted = await server.api("PATCH", path, patch, headers=as_bob)
        assert granted.status == 200, granted.raw
    types = {each["type"] for each in granted.body["status"]["conditions"]}
    assert types == {"Approved", "Failed"}, "the decision stays when the status is written without it"


async def test_nobody_becomes_a_master_and_a_node_asks_for_itself(server: Server) -> None:
    master = await server.api("POST", REQUESTS, request("m", csr("eve", ["system:masters"])))
    assert (master.status, master.message) == (
        403,
        'certificatesigningrequests.certificates.k8s.io "m" is forbidden: use of kubernetes.io/kube-apiserver-client '
        "signer with system:masters group is not allowed",
    )
    async with server.client("node1") as node:
        for name, status in (("system:node:n1", 201), ("system:node:n2", 403)):
            asked = request(name.replace(":", "-"), csr(name, ["system:nodes"]), signers.KUBELET_CLIENT)
            answer = await node("POST", REQUESTS, asked)
            assert answer.status == status, answer.raw
        assert answer.message.endswith("can only create a node CSR with CN=system:node:n1")
        assert (await node("GET", REQUESTS)).status == 200
        assert (await node("DELETE", f"{REQUESTS}/system-node-n1")).status == 403
