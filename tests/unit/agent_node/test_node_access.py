"""Who may use the node API: certificates, tokens, and what the API server is asked."""

from __future__ import annotations

from typing import Any

import pytest

from agent.access import ALLOWED_SECONDS, DENIED_SECONDS, Access, Refused, User, attributes, user_of_certificate
from pyk.api.kinds import Kind
from pyk.reconcile.clock import VirtualClock

MASTER = {"subject": ((("organizationName", "system:masters"),), (("commonName", "kube-apiserver"),))}
PERSON = {"subject": ((("organizationName", "team"),), (("commonName", "ann"),))}


class Server:
    """Answers reviews: the token `good` is Prometheus', who may read metrics."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.allowed = {("system:serviceaccount:m:prometheus", "get", "metrics"), ("ann", "get", "proxy")}

    async def create(self, kind: Kind, review: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(kind.kind)
        spec = review["spec"]
        if kind.kind == "TokenReview":
            if spec["token"] != "good":
                return {"status": {"authenticated": False}}
            user = {"username": "system:serviceaccount:m:prometheus", "groups": ["system:serviceaccounts"]}
            return {"status": {"authenticated": True, "user": user}}
        wanted = spec["resourceAttributes"]
        assert (wanted["resource"], wanted["name"]) == ("nodes", "n1")
        return {"status": {"allowed": (spec["user"], wanted["verb"], wanted["subresource"]) in self.allowed}}


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/stats/summary", ("get", ("stats",))),
        ("GET", "/metrics/cadvisor", ("get", ("metrics",))),
        ("GET", "/metricsx", ("get", ("proxy",))),
        ("GET", "/pods", ("get", ("pods", "proxy"))),
        ("GET", "/containerLogs/ns/p/c", ("get", ("proxy",))),
        ("POST", "/exec/ns/p/c", ("create", ("proxy",))),
        ("PUT", "/localVolumes/v", ("update", ("proxy",))),
    ],
)
def test_a_request_is_a_verb_on_a_subresource_of_the_node(method: str, path: str, expected: Any) -> None:
    assert attributes(method, path) == expected


def test_the_user_is_in_the_certificate() -> None:
    assert user_of_certificate(PERSON) == User("ann", ("team",))
    assert user_of_certificate(None) is user_of_certificate({}) is None


async def refusal(access: Access, *request: Any) -> Any:
    try:
        await access.check(*request)
    except Refused as refused:
        return refused.status, str(refused)
    return None


async def test_the_api_server_is_let_in_and_strangers_are_not() -> None:
    server = Server()
    access = Access(server, "n1", clock=VirtualClock())  # type: ignore[arg-type]
    assert await refusal(access, "POST", "/exec/a/b/c", MASTER, "") is None
    assert await refusal(access, "GET", "/metrics", None, "") == (401, "Unauthorized")
    assert await refusal(access, "GET", "/metrics", None, "Basic x") == (401, "Unauthorized")
    assert server.asked == []
    assert await refusal(access, "GET", "/metrics", None, "Bearer bad") == (401, "Unauthorized")


async def test_a_token_is_reviewed_and_what_it_may_is_asked_once_in_a_while() -> None:
    server, clock = Server(), VirtualClock()
    access = Access(server, "n1", clock=clock)  # type: ignore[arg-type]
    for _ in range(3):
        assert await refusal(access, "GET", "/metrics/cadvisor", None, "Bearer good") is None
    assert server.asked == ["TokenReview", "SubjectAccessReview"]
    assert await refusal(access, "GET", "/stats/summary", None, "Bearer good") == (
        403,
        "Forbidden (user=system:serviceaccount:m:prometheus, verb=get, resource=nodes, subresource(s)=[stats])",
    )
    await clock.advance(ALLOWED_SECONDS)
    server.asked.clear()
    assert await refusal(access, "GET", "/metrics/cadvisor", None, "Bearer good") is None
    assert server.asked == ["TokenReview", "SubjectAccessReview"]


async def test_a_refusal_is_forgotten_sooner_and_the_wider_right_suffices() -> None:
    server, clock = Server(), VirtualClock()
    access = Access(server, "n1", clock=clock)  # type: ignore[arg-type]
    assert await refusal(access, "GET", "/pods", PERSON, "") is None
    assert (await refusal(access, "GET", "/metrics", PERSON, ""))[0] == 403
    server.allowed.add(("ann", "get", "metrics"))
    assert (await refusal(access, "GET", "/metrics", PERSON, ""))[0] == 403
    await clock.advance(DENIED_SECONDS)
    assert await refusal(access, "GET", "/metrics", PERSON, "") is None
