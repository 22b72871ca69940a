"""Roles, questions about rights and identities, and acting as somebody else, over the wire and with kubectl."""

from __future__ import annotations

import pytest

RBAC = "/apis/rbac.authorization.k8s.io/v1"
AUTHORIZATION = "/apis/authorization.k8s.io/v1"
PODS = "/api/v1/namespaces/default/pods"


def as_user(name: str, **more: str) -> dict[str, str]:
    return {"Impersonate-User": name, **{key.replace("_", "-"): value for key, value in more.items()}}


async def may(api, user: str, verb: str, resource: str, namespace: str = "default") -> bool:
    asked = {"verb": verb, "resource": resource, "namespace": namespace}
    spec = {"user": user, "resourceAttributes": asked}
    answer = await api("POST", f"{AUTHORIZATION}/subjectaccessreviews", {"spec": spec})
    assert answer.status == 201, answer.body
    return answer.body["status"]["allowed"]


@pytest.fixture
async def reader(api):
    """A user `alice` who may read pods in `default`."""
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]
    path = f"{RBAC}/namespaces/default"
    assert (await api("POST", f"{path}/roles", {"metadata": {"name": "reader"}, "rules": rules})).status == 201
    binding = {
        "metadata": {"name": "alice"},
        "roleRef": {"kind": "Role", "name": "reader"},
        "subjects": [{"kind": "User", "name": "alice"}],
    }
    assert (await api("POST", f"{path}/rolebindings", binding)).status == 201
    return "alice"


async def test_a_role_opens_what_it_says_and_nothing_else(api, reader):
    assert (await api("GET", PODS, headers=as_user(reader))).status == 200
    refused = await api("GET", "/api/v1/pods", headers=as_user(reader))
    assert (refused.status, refused.body["reason"]) == (403, "Forbidden")
    assert refused.message == (
        'pods is forbidden: User "alice" cannot list resource "pods" in API group "" at the cluster scope'
    )
    assert (await api("GET", "/nowhere", headers=as_user(reader))).message == (
        'forbidden: User "alice" cannot get path "/nowhere"'
    )
    await api("DELETE", f"{RBAC}/namespaces/default/rolebindings/alice")
    assert not await may(api, reader, "list", "pods")
    assert (await api("GET", PODS, headers=as_user(reader))).status == 403


async def test_reviews_answer_for_others_and_for_oneself(api, reader):
    assert await may(api, reader, "list", "pods")
    assert not await may(api, reader, "list", "pods", "kube-system")
    asked = {"spec": {"resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "default"}}}
    own = await api("POST", f"{AUTHORIZATION}/selfsubjectaccessreviews", asked, headers=as_user(reader))
    assert (own.status, own.body["kind"]) == (201, "SelfSubjectAccessReview")
    reason = 'RBAC: allowed by RoleBinding "alice/default" of Role "reader" to User "alice"'
    assert own.body["status"] == {"allowed": True, "reason": reason}
    local = f"{AUTHORIZATION}/namespaces/default/localsubjectaccessreviews"
    spec = {"user": reader, **asked["spec"]}
    assert (await api("POST", local, {"spec": spec})).body["status"]["allowed"] is True
    spec["resourceAttributes"]["namespace"] = "other"
    assert (await api("POST", local, {"spec": spec})).status == 422
    rules = await api(
        "POST", f"{AUTHORIZATION}/selfsubjectrulesreviews", {"spec": {"namespace": "default"}}, headers=as_user(reader)
    )
    assert {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]} in rules.body["status"]["resourceRules"]
    others = await api("POST", f"{AUTHORIZATION}/subjectaccessreviews", {"spec": spec}, headers=as_user(reader))
    assert others.status == 403


async def test_questions_are_not_stored(api):
    path = f"{AUTHORIZATION}/selfsubjectaccessreviews"
    for method, where in (("GET", path), ("GET", f"{path}/x"), ("DELETE", f"{path}/x"), ("PUT", f"{path}/x")):
        assert (await api(method, where, {"metadata": {"name": "x"}} if method == "PUT" else None)).status == 405
    resources = (await api("GET", AUTHORIZATION)).body["resources"]
    assert {tuple(each["verbs"]) for each in resources} == {("create",)}
    assert (await api("POST", path, {"spec": {}})).status == 422


async def test_acting_as_somebody_else_needs_the_right_to(api, server, reader):
    who = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    headers = as_user("bob", Impersonate_Uid="u-1", Impersonate_Extra_scopes="all")
    found = (await api("POST", who, {}, headers=headers)).body["status"]["userInfo"]
    assert found == {
        "username": "bob",
        "uid": "u-1",
        "groups": ["system:authenticated"],
        "extra": {"scopes": ["all"]},
    }
    account = (await api("POST", who, {}, headers=as_user("system:serviceaccount:a:b"))).body["status"]["userInfo"]
    assert account["groups"] == ["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"]
    assert (await api("POST", who, {}, headers={"Impersonate-Group": "x"})).status == 400
    async with server.client("scheduler") as scheduler:
        refused = await scheduler("GET", PODS, headers=as_user("bob"))
        assert refused.status == 403
        assert 'User "system:kube-scheduler" cannot impersonate resource "users"' in refused.message


async def test_nobody_gives_away_more_than_they_have(api, reader):
    rules = [{"apiGroups": [RBAC.split("/")[2]], "resources": ["roles", "rolebindings"], "verbs": ["*"]}]
    path = f"{RBAC}/namespaces/default"
    await api("POST", f"{path}/roles", {"metadata": {"name": "roles"}, "rules": rules})
    binding = {
        "metadata": {"name": "roles"},
        "roleRef": {"kind": "Role", "name": "roles"},
        "subjects": [{"kind": "User", "name": "carol"}],
    }
    await api("POST", f"{path}/rolebindings", binding)
    pods = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]
    carol = as_user("carol")
    # `*` on roles holds `escalate` and `bind`, so take these away first.
    await api.patch(
        f"{path}/roles/roles", {"rules": [{**rules[0], "verbs": ["get", "create", "update", "patch", "delete"]}]}
    )
    assert not await may(api, "carol", "get", "pods")
    refused = await api("POST", f"{path}/roles", {"metadata": {"name": "mine"}, "rules": pods}, headers=carol)
    assert refused.status == 403
    assert "is attempting to grant RBAC permissions not currently held" in refused.message
    binding = {**binding, "metadata": {"name": "mine"}, "roleRef": {"kind": "Role", "name": "reader"}}
    assert (await api("POST", f"{path}/rolebindings", binding, headers=carol)).status == 403
    changed = {**binding, "metadata": {"name": "alice"}, "roleRef": {"kind": "Role", "name": "roles"}}
    answer = await api("PUT", f"{path}/rolebindings/alice", changed)
    assert (answer.status, answer.body["details"]["causes"][0]["field"]) == (422, "roleRef")


async def test_first_roles_come_back(start_server):
    async with start_server() as server:
        role = f"{RBAC}/clusterroles/system:basic-user"
        await server.api("DELETE", role)
        await server.api.patch(f"{RBAC}/clusterrolebindings/system:basic-user", {"subjects": None})
    async with start_server() as server:
        assert (await server.api("GET", role)).status == 200
        binding = (await server.api("GET", f"{RBAC}/clusterrolebindings/system:basic-user")).body
        assert [each["name"] for each in binding["subjects"]] == ["system:authenticated"]


async def test_kubectl_asks_and_acts_as_others(server, api, reader):
    status, out, err = await server.kubectl("auth", "can-i", "list", "pods", "--as", "alice")
    assert (status, out.strip()) == (0, "yes"), err
    status, out, err = await server.kubectl("auth", "can-i", "delete", "pods", "--as", "alice")
    assert (status, out.strip()) == (1, "no"), err
    status, out, err = await server.kubectl("auth", "can-i", "--list", "--as", "alice")
    assert status == 0, err
    assert "pods" in out
    status, out, err = await server.kubectl("auth", "whoami", "--as", "bob", "--as-group", "dev")
    assert status == 0, err
    assert "bob" in out
    assert "dev" in out
    status, out, err = await server.kubectl("auth", "whoami")
    assert status == 0, err
    assert "Extra: authentication.kubernetes.io/credential-id   [X509SHA256=" in out
    status, out, err = await server.kubectl("get", "secrets", "--as", "alice")
    assert (status, out) == (1, "")
    assert 'User "alice" cannot list resource "secrets" in API group "" in the namespace "default"' in err
    status, out, err = await server.kubectl(
        "create", "clusterrolebinding", "bob", "--clusterrole", "cluster-admin", "--user", "bob"
    )
    assert status == 0, err
    status, out, err = await server.kubectl("get", "secrets", "--as", "bob")
    assert status == 0, err
    status, out, err = await server.kubectl("get", "clusterroles,clusterrolebindings", "-o", "wide")
    assert status == 0, err
    assert "ClusterRole/cluster-admin" in out
