"""Which requests the audit policy logs, how much of them, and the file that it goes to."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from controlplane.apiserver import auditlog
from controlplane.apiserver.auditlog import AuditLog
from controlplane.apiserver.auditpolicy import BadPolicy, Level, policy_of, read_policy
from controlplane.apiserver.authentication import UserInfo
from controlplane.apiserver.request import parse_query, parse_request
from pyk.reconcile.clock import VirtualClock

ADA = UserInfo("ada", groups=("people", "system:authenticated"))


def policy(*rules: dict[str, Any], **more: Any) -> Any:
    return policy_of({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": list(rules), **more})


def level(found: Any, method: str, url: str, user: UserInfo = ADA) -> Level:
    path, _, query = url.partition("?")
    return Level(found.verdict(user, parse_request(method, path, parse_query(query))).level)


POD, PODS = "/api/v1/namespaces/a/pods/p", "/api/v1/namespaces/a/pods"
CASES: list[tuple[dict[str, Any], str, str, bool]] = [
    ({}, "GET", POD, True),
    ({}, "GET", "/healthz", True),
    ({"users": ["ada"]}, "GET", POD, True),
    ({"users": ["eve"]}, "GET", POD, False),
    ({"userGroups": ["people"]}, "GET", POD, True),
    ({"userGroups": ["gods"]}, "GET", POD, False),
    ({"verbs": ["list"]}, "GET", PODS, True),
    ({"verbs": ["list"]}, "GET", f"{PODS}?watch=1", False),
    ({"namespaces": ["a"]}, "GET", POD, True),
    ({"namespaces": ["b"]}, "GET", POD, False),
    ({"namespaces": [""]}, "GET", "/api/v1/nodes/n", True),
    ({"namespaces": ["a"]}, "GET", "/healthz", False),
    ({"resources": [{"group": ""}]}, "GET", POD, True),
    ({"resources": [{"group": "apps"}]}, "GET", POD, False),
    ({"resources": [{"resources": ["pods"]}]}, "GET", POD, True),
    ({"resources": [{"resources": ["pods"]}]}, "GET", f"{POD}/log", False),
    ({"resources": [{"resources": ["pods/log"]}]}, "GET", f"{POD}/log", True),
    ({"resources": [{"resources": ["pods/*"]}]}, "GET", f"{POD}/log", True),
    ({"resources": [{"resources": ["*/log"]}]}, "GET", f"{POD}/log", True),
    ({"resources": [{"resources": ["*/log"]}]}, "GET", POD, False),
    ({"resources": [{"resources": ["*"]}]}, "GET", f"{POD}/log", True),
    ({"resources": [{"resources": ["pods"], "resourceNames": ["p"]}]}, "GET", POD, True),
    ({"resources": [{"resources": ["pods"], "resourceNames": ["q"]}]}, "GET", POD, False),
    ({"nonResourceURLs": ["/healthz*"]}, "GET", "/healthz/ping", True),
    ({"nonResourceURLs": ["/healthz"]}, "GET", "/healthz/ping", False),
    ({"nonResourceURLs": ["*"]}, "GET", POD, False),
]


@pytest.mark.parametrize(("rule", "method", "url", "is_match"), CASES)
def test_what_a_rule_matches(rule: dict[str, Any], method: str, url: str, is_match: bool) -> None:
    found = policy({"level": "Metadata", **rule})
    assert level(found, method, url) == (Level.METADATA if is_match else Level.NONE)


def test_the_first_rule_that_matches_counts() -> None:
    found = policy(
        {"level": "None", "verbs": ["get"]},
        {"level": "Request", "omitStages": ["Panic"], "omitManagedFields": False},
        omitStages=["RequestReceived"],
        omitManagedFields=True,
    )
    assert level(found, "GET", POD) is Level.NONE
    verdict = found.verdict(ADA, parse_request("DELETE", POD, {}))
    assert (verdict.level, verdict.omit_managed_fields) == (Level.REQUEST, False)
    assert verdict.omit_stages == {"RequestReceived", "Panic"}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"kind": "Policy", "apiVersion": "audit.k8s.io/v1beta1", "rules": [{"level": "None"}]}, "no Policy"),
        ({"kind": "Policy", "apiVersion": "audit.k8s.io/v1", "rules": []}, "no rules"),
        ([{"level": "Loud"}], 'rules[0].level: Unsupported value: "Loud"'),
        ([{"level": "None", "omitStages": ["Encore"]}], 'rules[0].omitStages: Unsupported value: "Encore"'),
        ([{"level": "None", "user": ["ada"]}], 'rules[0]: unknown field "user"'),
        ([{"level": "None", "users": "ada"}], "rules[0].users is no list of texts"),
        ([{"level": "None", "nonResourceURLs": ["/a*b"]}], "must be the final character"),
        ([{"level": "None", "nonResourceURLs": ["a"]}], "must begin with a '/'"),
        ([{"level": "None", "nonResourceURLs": ["/a"], "namespaces": ["b"]}], "cannot apply to both"),
        ([{"level": "None", "resources": [{"resourceNames": ["a"]}]}], "requires at least one resource"),
    ],
)
def test_a_policy_that_cannot_be_used_is_refused(tmp_path: Path, document: Any, words: str) -> None:
    if isinstance(document, list):
        document = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": document}
    file = tmp_path / "policy.yaml"
    file.write_text(yaml.safe_dump(document))
    with pytest.raises(BadPolicy) as refused:
        read_policy(file)
    assert words in str(refused.value)


def test_the_policy_of_a_cluster_on_one_machine_tells_of_secrets_but_not_what_they_are() -> None:
    found = read_policy(Path(__file__).parents[3] / "pyk" / "lab" / "audit-policy.yaml")
    assert level(found, "GET", "/api/v1/namespaces/a/secrets/s") is Level.METADATA
    assert level(found, "GET", f"{POD}/exec") is Level.METADATA
    assert level(found, "GET", POD) is Level.NONE
    assert level(found, "DELETE", POD) is Level.METADATA
    assert level(found, "POST", "/apis/rbac.authorization.k8s.io/v1/clusterroles") is Level.REQUEST
    assert level(found, "POST", PODS, UserInfo("system:kube-controller-manager")) is Level.NONE


async def written(log: AuditLog, lines: list[bytes]) -> None:
    """One batch a line, as when they come one by one."""
    running = asyncio.create_task(log.run())
    for line in lines:
        log.write(line)
        while log._waiting:
            await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    log.close()


async def test_a_grown_file_is_put_aside_and_the_oldest_go(tmp_path: Path) -> None:
    clock = VirtualClock()
    log = AuditLog(tmp_path / "audit.log", clock, max_bytes=25, backups=2)
    lines = [b"%08d" % number for number in range(9)]
    for line in lines:
        log._append([line])
        await clock.advance(1.0)
    log.close()
    aside = sorted(tmp_path.glob("audit-*.log"))
    assert [path.read_bytes().split() for path in aside] == [lines[4:6], lines[6:8]]
    assert (tmp_path / "audit.log").read_bytes().split() == lines[8:]
    assert os.stat(tmp_path / "audit.log").st_mode & 0o777 == 0o600


async def test_every_line_is_written_also_those_that_wait_at_the_end(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.log", VirtualClock())
    await written(log, [b"a", b"b", b"c"])
    assert (tmp_path / "audit.log").read_bytes() == b"a\nb\nc\n"


async def test_more_than_can_wait_is_dropped_and_counted(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(auditlog, "_MOST_WAITING", 2)
    before = auditlog.ERRORS.labels("log")._value.get()
    log = AuditLog(tmp_path / "audit.log", VirtualClock())
    for line in (b"a", b"b", b"c"):
        log.write(line)
    log.close()
    assert (tmp_path / "audit.log").read_bytes() == b"a\nb\n"
    assert auditlog.ERRORS.labels("log")._value.get() == before + 1
