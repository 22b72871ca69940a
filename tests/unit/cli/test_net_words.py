"""What `pyk net` makes of the nodes' answers and of the words that it is given."""

from __future__ import annotations

from typing import Any

import pytest

from pyk.api.status import ApiError
from pyk.cli.net import find_target, missing, overview_row
from pyk.cli.netcheck import slice_document
from pyk.errors import UserError
from pyk.network.report import Line, arrives, readable, way_lines


def step(chain: str, did: str, comment: str = "") -> dict[str, str]:
    return {"chain": chain, "did": did, "comment": comment}


def answer(**more: Any) -> dict[str, Any]:
    route = {"destination": "10.1.1.0/24", "gateway": "192.0.2.2", "link": "eth0"}
    neighbour = {"address": "192.0.2.2", "mac": "0a:58:00:00:00:02"}
    plain = {
        "stages": [],
        "route": route,
        "neighbour": neighbour,
        "to": None,
        "choices": 1,
        "fate": "sent",
        "out": "eth0",
    }
    return {**plain, **more}


def test_a_draw_among_endpoints_shows_all_of_them_and_the_way_to_the_first() -> None:
    to = {"address": "fd00::2", "port": 8080}
    stage = {
        "chain": "translate-forwarded",
        "fate": "continue",
        "steps": [step("translate", "goto service-0123abcd-default/web/tcp/http/cluster6")],
    }
    both = [to, {"address": "fd00::3", "port": 8080}]
    lines = way_lines(answer(stages=[stage], to=to, choices=2, endpoints=both))
    assert lines == [
        Line(
            "service",
            "default/web/tcp/http/cluster6 takes it, to [fd00::2]:8080; one of 2: [fd00::2]:8080, [fd00::3]:8080",
        ),
        Line("route", "10.1.1.0/24 via 192.0.2.2 dev eth0, 0a:58:00:00:00:02"),
    ]
    assert arrives(lines)


def test_every_policy_that_isolates_is_named_when_none_allows() -> None:
    pod_chain = "pod-0123abcd-default/b/uid/ingress"
    steps = [
        step("ingress", f"goto {pod_chain}"),
        step(pod_chain, "jump policy-01234567-default/two/ingress"),
        step(pod_chain, "jump policy-89abcdef-default/one/ingress"),
        step(pod_chain, "drop", "no policy allows it"),
    ]
    lines = way_lines(answer(stages=[{"chain": "ingress", "fate": "drop", "steps": steps}], fate="drop"))
    assert lines[-1] == Line(
        "ingress", "DENIED: no ingress rule of NetworkPolicy default/one, default/two allows it", True
    )
    assert not arrives(lines)


def test_a_pod_whose_policies_are_not_in_is_told_apart_from_a_denied_one() -> None:
    steps = [step("egress", "drop", "a pod whose policies are not in yet")]
    (_, line) = way_lines(answer(stages=[{"chain": "egress", "fate": "drop", "steps": steps}], fate="drop"))
    assert line == Line("egress", "DENIED: dropped: a pod whose policies are not in yet", True)
    assert readable("guard") == "guard"


def node(name: str, *cidrs: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"podCIDRs": list(cidrs)}}


def test_a_route_that_should_be_there_is_missed_in_the_kernel_and_in_the_plan() -> None:
    there = {"node": "b", "destination": "10.1.1.0/24", "backend": "vxlan", "gateway": "10.1.1.1", "isThere": True}
    gone = {**there, "destination": "fd00:0:0:1::/64", "isThere": False}
    counts = {"services": 1, "endpoints": 2, "peers": 0, "chains": 3, "rules": 4}
    found = {"podCIDRs": ["10.1.0.0/24"], "mtu": 1450, "pods": 7, "peers": [there, gone], "rules": counts}
    nodes = [node("a", "10.1.0.0/24"), node("b", "10.1.1.0/24", "fd00:0:0:1::/64"), node("c", "10.1.2.0/24")]
    assert missing("a", nodes, found) == [
        "a has no route to the pods of b: fd00:0:0:1::/64 is not in its kernel",
        "a knows no way to the pods of c (10.1.2.0/24)",
    ]
    assert overview_row("a", found) == ["a", "7", "10.1.0.0/24", "1450", "1 by vxlan", "1", "2", "0", "3", "4"]


class Server:
    """Has the service `default/web` of both families, and nothing else."""

    def get(self, kind: Any, name: str, namespace: str) -> dict[str, Any]:
        if (kind.kind, namespace, name) != ("Service", "default", "web"):
            raise ApiError(404, "NotFound", "there is none")
        spec = {"clusterIPs": ["10.8.0.1", "fd00:8::1"], "ports": [{"port": 53, "protocol": "UDP"}, {"port": 80}]}
        return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}


def test_a_target_is_a_service_an_address_or_a_clear_error() -> None:
    def told(text: str, protocol: str = "TCP", *, second: bool = False) -> tuple[str, int]:
        target = find_target(Server(), text, "default", protocol, second=second)  # type: ignore[arg-type]
        return target.address, target.port

    assert told("web") == ("10.8.0.1", 80)
    assert told("svc/default/web:81", second=True) == ("fd00:8::1", 81)
    assert told("web", "UDP") == ("10.8.0.1", 53)
    assert told("[fd00::9]:443") == ("fd00::9", 443)
    for wrong, why in {
        "nope": "no pod and no service 'nope'",
        "pod/web": "no pod and no service",
        "10.1.2.3": "needs a port",
        "web:0": "is no port",
        "a/b/c": r"is not \[NAMESPACE/\]NAME",
    }.items():
        with pytest.raises(UserError, match=why):
            told(wrong)


def test_the_service_of_a_check_leads_to_the_places_of_its_family() -> None:
    places = {"a": {"addresses": ["10.1.0.9", "fd00::9"]}, "b": {"addresses": ["10.1.1.9"]}}
    made = slice_document("s-0", "s", 4, places, 4240)
    assert [each["addresses"] for each in made["endpoints"]] == [["10.1.0.9"], ["10.1.1.9"]]
    assert (made["addressType"], made["ports"][0]["port"]) == ("IPv4", 4240)
