"""Tokens of service accounts: asked for, used, reviewed, verified by others, and refused when their time is over."""

from __future__ import annotations

import base64
import json

import jwt

ACCOUNTS = "/api/v1/namespaces/default/serviceaccounts"
PODS = "/api/v1/namespaces/default/pods"
WHO = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
REVIEW = "/apis/authentication.k8s.io/v1/tokenreviews"
ISSUER = "https://kubernetes.default.svc.cluster.local"


async def account(api, name: str = "robot"):
    created = await api("POST", ACCOUNTS, {"metadata": {"name": name}})
    assert created.status == 201
    return created.body


async def token_of(api, name: str = "robot", **spec):
    answer = await api("POST", f"{ACCOUNTS}/{name}/token", {"spec": spec})
    assert answer.status == 201, answer.body
    return answer.body["status"]["token"]


def claims_of(token: str):
    part = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


async def whoami(server, token: str):
    async with server.client(certificate=None, token=token) as someone:
        answer = await someone("POST", WHO, {})
        return answer.status, answer.body.get("status", {}).get("userInfo") if answer.status == 201 else answer.message


async def test_a_token_is_its_account(server, api):
    made = await account(api)
    answer = await api("POST", f"{ACCOUNTS}/robot/token", {"spec": {"expirationSeconds": 1200}})
    assert (answer.status, answer.body["kind"], answer.body["spec"]["audiences"]) == (201, "TokenRequest", [ISSUER])
    token = answer.body["status"]["token"]
    claims = claims_of(token)
    assert claims["exp"] - claims["iat"] == 1200
    assert claims["sub"] == "system:serviceaccount:default:robot"
    assert claims["kubernetes.io"]["serviceaccount"] == {"name": "robot", "uid": made["metadata"]["uid"]}
    status, user = await whoami(server, token)
    assert status == 201
    assert user["username"] == "system:serviceaccount:default:robot"
    assert user["uid"] == made["metadata"]["uid"]
    assert user["groups"] == ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"]
    await api("DELETE", f"{ACCOUNTS}/robot")
    assert (await whoami(server, token))[0] == 401
    await account(api)
    assert (await whoami(server, token))[0] == 401, "the new account of that name is another one"


async def test_a_token_of_another_audience_or_hand_opens_nothing(server, api):
    await account(api)
    token = await token_of(api, audiences=["vault"])
    assert await whoami(server, token) == (401, "Unauthorized")
    good = await token_of(api)
    head, body, signature = good.split(".")
    claims = claims_of(good)
    claims["sub"] = "system:serviceaccount:kube-system:admin"
    forged = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    unsigned = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').decode().rstrip("=")
    for bad in (f"{head}.{forged}.{signature}", f"{unsigned}.{body}.", f"{head}.{body}.AAAA", "a.b.c"):
        assert (await whoami(server, bad))[0] == 401
    assert (await whoami(server, good))[0] == 201


async def test_a_token_lives_with_its_pod(server, api, new_pod):
    await account(api)
    pod = new_pod("p")
    pod["spec"]["serviceAccountName"] = "robot"
    made = (await api("POST", PODS, pod)).body
    reference = {"kind": "Pod", "apiVersion": "v1", "name": "p"}
    token = await token_of(api, boundObjectRef=reference)
    status, user = await whoami(server, token)
    assert status == 201
    assert user["extra"]["authentication.kubernetes.io/pod-name"] == ["p"]
    assert user["extra"]["authentication.kubernetes.io/pod-uid"] == [made["metadata"]["uid"]]
    wrong = await api("POST", f"{ACCOUNTS}/robot/token", {"spec": {"boundObjectRef": {**reference, "uid": "x"}}})
    assert wrong.status == 409
    await account(api, "other")
    assert (await api("POST", f"{ACCOUNTS}/other/token", {"spec": {"boundObjectRef": reference}})).status == 400
    await api("DELETE", f"{PODS}/p", {"gracePeriodSeconds": 0})
    assert (await whoami(server, token))[0] == 401


async def test_what_cannot_be_asked_for(api):
    await account(api)
    path = f"{ACCOUNTS}/robot/token"
    assert (await api("POST", path, {"spec": {"expirationSeconds": 60}})).status == 422
    assert (await api("POST", path, {"spec": {"boundObjectRef": {"kind": "ConfigMap", "name": "x"}}})).status == 422
    assert (await api("POST", path, {"spec": {"boundObjectRef": {"kind": "Secret", "name": "x"}}})).status == 404
    assert (await api("POST", f"{ACCOUNTS}/nobody/token", {"spec": {}})).status == 404


async def test_a_token_is_reviewed(api):
    await account(api)
    token = await token_of(api)
    status = (await api("POST", REVIEW, {"spec": {"token": token}})).body["status"]
    assert (status["authenticated"], status["audiences"]) == (True, [ISSUER])
    assert status["user"]["username"] == "system:serviceaccount:default:robot"
    vault = await token_of(api, audiences=["vault", "other"])
    status = (await api("POST", REVIEW, {"spec": {"token": vault, "audiences": ["vault"]}})).body["status"]
    assert (status["authenticated"], status["audiences"]) == (True, ["vault"])
    status = (await api("POST", REVIEW, {"spec": {"token": vault}})).body["status"]
    assert not status.get("authenticated")
    assert "invalid" in status["error"]
    assert (await api("POST", REVIEW, {"spec": {}})).status == 400


async def test_others_verify_tokens_with_the_published_keys(server, api):
    await account(api)
    token = await token_of(api, audiences=["vault"])
    found = (await api("GET", "/.well-known/openid-configuration")).body
    assert found["issuer"] == ISSUER
    assert found["jwks_uri"] == f"{server.url}/openid/v1/jwks"
    keys = json.loads((await api("GET", "/openid/v1/jwks")).raw)
    key = jwt.PyJWKSet.from_dict(keys)[jwt.get_unverified_header(token)["kid"]]
    claims = jwt.decode(token, key, algorithms=found["id_token_signing_alg_values_supported"], audience="vault")
    assert claims["iss"] == ISSUER
    async with server.client(certificate=None) as stranger:
        assert (await stranger("GET", "/openid/v1/jwks")).status == 403
    mine = await token_of(api)
    async with server.client(certificate=None, token=mine) as someone:
        assert (await someone("GET", "/openid/v1/jwks")).status == 200


async def test_a_node_gets_tokens_for_its_pods_only(server, api, new_pod):
    await account(api)
    for name, node in (("mine", "n1"), ("other", "n2")):
        pod = new_pod(name)
        pod["spec"] |= {"serviceAccountName": "robot" if name == "mine" else "default", "nodeName": node}
        assert (await api("POST", PODS, pod)).status == 201

    def bound(name: str):
        return {"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": name}}}

    async with server.client("node1") as node:
        assert (await node("POST", f"{ACCOUNTS}/robot/token", bound("mine"))).status == 201
        unbound = await node("POST", f"{ACCOUNTS}/robot/token", {"spec": {}})
        assert (unbound.status, "not bound to a pod" in unbound.message) == (403, True)
        assert (await node("POST", f"{ACCOUNTS}/default/token", bound("other"))).status == 403


async def test_kubectl_creates_tokens(server, api):
    await account(api)
    status, out, err = await server.kubectl("create", "token", "robot", "--duration", "20m")
    assert status == 0, err
    assert (await whoami(server, out.strip()))[0] == 201
    status, out, err = await server.kubectl("--token", out.strip(), "auth", "whoami")
    assert status == 0, err
