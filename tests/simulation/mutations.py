"""Loops that are broken on purpose, each in a way that a rule of the simulator has to notice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from controlplane.apiserver import admission_quota, evictions, streaming
from controlplane.controllers import (
    daemonset,
    deployment,
    expectations,
    garbagecollector,
    jobplan,
    statefulset,
    tainteviction,
)
from controlplane.controllers.rollout import size
from pyk.api.kinds import (
    DAEMON_SET,
    DEPLOYMENT,
    JOB,
    POD_DISRUPTION_BUDGET,
    RESOURCE_QUOTA,
    STATEFUL_SET,
    Kind,
)
from pyk.api.objects import name_of
from pyk.reconcile.actions import Delete
from scheduler import filters
from simulation.script import Operation
from simulation.weather import CONTROLLERS, CUT, Fault


@dataclass(frozen=True)
class Mutation:
    """What is broken, by `apply`, and the rule that notices it when these operations and faults happen."""

    name: str
    rule: str
    apply: Callable[[pytest.MonkeyPatch], None]
    operations: tuple[Operation, ...]
    faults: tuple[Fault, ...] = ()
    nodes: int = 3
    seconds: float = 60.0


def workload(
    kind: Kind, name: str, at: float = 2.0, *, cpu: str = "50m", namespace: str = "default", **spec: Any
) -> Operation:
    """The creation of a workload whose pods take a second to be ready."""
    annotations = {"simulation.pyk.io/starts-in": "1", "simulation.pyk.io/stops-in": "1"} | spec.pop("behaves", {})
    container = {"name": "main", "image": "app:1", "resources": {"requests": {"cpu": cpu}}}
    template = {
        "metadata": {"labels": {"app": name}, "annotations": annotations},
        "spec": {"containers": [container], "restartPolicy": "Never" if kind is JOB else "Always"},
    }
    selector = {} if kind is JOB else {"selector": {"matchLabels": {"app": name}}}
    metadata = {"name": name, "namespace": namespace}
    body = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata,
            "spec": {**selector, "template": template, **spec}}  # fmt: skip
    return Operation(at, "create", kind.singular, name, namespace, body)


def other(kind: Kind, name: str, at: float = 1.0, namespace: str = "default", **spec: Any) -> Operation:
    """The creation of anything else."""
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    body = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, "spec": spec}
    return Operation(at, "create", kind.singular, name, namespace, body)


def rolled(kind: Kind, name: str, at: float) -> Operation:
    """A new version of a workload."""
    body = {"spec": {"template": {"metadata": {"annotations": {"version": "2"}}}}}
    return Operation(at, "patch", kind.singular, name, "default", body)


def _surge_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(deployment, "size_of_new", lambda found, new, old: size(found))


def _availability_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(deployment, "sizes_of_old", lambda found, new, old: {name_of(each): 0 for each in old if size(each)})


def _own_writes_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(expectations.Expectations, "overlay", lambda self, owner, cached: list(cached))


def _budgets_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(evictions.Evictor, "_budgets", lambda self, pod: [])


def _order_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(statefulset, "is_ordered", lambda found: False)


def _daemons_go_together(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(daemonset, "_limits", lambda observed, desired: (0, 100))


def _quotas_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(admission_quota, "_check", lambda charge, quotas, added: None)


def _room_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(filters.NodeResourcesFit, "_free", lambda self, name, rows: self._snapshot.alive[rows] * 1e18)


def _evictions_are_forced(patch: pytest.MonkeyPatch) -> None:
    """As if a node that is silent had surely stopped its pods."""
    decide = tainteviction.decide

    def forced(observed: Any) -> list[Any]:
        actions = decide(observed)
        return [replace(each, grace_period_seconds=0) if isinstance(each, Delete) else each for each in actions]

    patch.setattr(tainteviction, "decide", forced)


def _garbage_stays(patch: pytest.MonkeyPatch) -> None:
    async def nothing(self: Any, uid: str) -> None:
        return None

    patch.setattr(garbagecollector.GarbageCollector, "reconcile", nothing)


def _pods_are_counted_twice(patch: pytest.MonkeyPatch) -> None:
    count = jobplan._count

    def twice(*arguments: Any) -> Any:
        ended, status = count(*arguments)
        noted = (status.get("uncountedTerminatedPods") or {}).get("succeeded") or ()
        return ended, {**status, "succeeded": status["succeeded"] + len(noted)}

    patch.setattr(jobplan, "_count", twice)


def _removals_are_not_told(patch: pytest.MonkeyPatch) -> None:
    offer = streaming.WatchStream.offer

    def deaf(self: Any, event: Any) -> None:
        if event.type != "DELETED":
            offer(self, event)

    patch.setattr(streaming.WatchStream, "offer", deaf)


_ROLLING = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}}
_WEB = workload(DEPLOYMENT, "web", replicas=6, strategy=_ROLLING)
_DB = workload(STATEFUL_SET, "db", replicas=3, serviceName="db")
_LOGS = workload(DAEMON_SET, "logs", updateStrategy={"type": "RollingUpdate"})

MUTATIONS = (
    Mutation(
        "a rollout forgets maxSurge",
        "sets within surge",
        _surge_is_forgotten,
        (_WEB, rolled(DEPLOYMENT, "web", 15)),
    ),
    Mutation(
        "a rollout forgets maxUnavailable",
        "deployments stay available",
        _availability_is_forgotten,
        (_WEB, rolled(DEPLOYMENT, "web", 15)),
    ),
    Mutation(
        "loops forget what they wrote",
        "pods within surge",
        _own_writes_are_forgotten,
        (_WEB,),
        (Fault(0, "late events", CONTROLLERS, 60, 3.0),),
    ),
    Mutation(
        "evictions forget budgets",
        "evictions within budget",
        _budgets_are_forgotten,
        (
            _WEB,
            other(POD_DISRUPTION_BUDGET, "web", maxUnavailable=1, selector={"matchLabels": {"app": "web"}}),
            *(Operation(20 + pick / 100, "evict", "pod", "web", pick=pick) for pick in (0.1, 0.5, 0.9)),
        ),
    ),
    Mutation("a StatefulSet forgets its order", "stateful sets go in order", _order_is_forgotten, (_DB,)),
    Mutation(
        "a DaemonSet ends all its pods at once",
        "daemons stay available",
        _daemons_go_together,
        (_LOGS, rolled(DAEMON_SET, "logs", 15)),
    ),
    Mutation(
        "admission forgets quotas",
        "quotas hold",
        _quotas_are_forgotten,
        (other(RESOURCE_QUOTA, "few", hard={"pods": "4"}), _WEB),
    ),
    Mutation(
        "the scheduler forgets what nodes have",
        "nodes are not overfull",
        _room_is_forgotten,
        (
            workload(DEPLOYMENT, "big", replicas=8, cpu="900m"),
            Operation(20, "patch", "deployment", "big", body={"spec": {"replicas": 6}}),
        ),
    ),
    Mutation(
        "pods of silent nodes are removed by force",
        "identities run once",
        _evictions_are_forced,
        (_DB,),
        tuple(Fault(20, CUT, f"node-{number}", 60) for number in (0, 1)),
        seconds=90,
    ),
    Mutation(
        "nothing collects the garbage",
        "comes to rest",
        _garbage_stays,
        (_WEB, Operation(20, "delete", "deployment", "web", body="Background")),
        seconds=25,
    ),
    Mutation(
        "a Job counts its pods twice",
        "jobs count each pod once",
        _pods_are_counted_twice,
        (workload(JOB, "sums", completions=4, parallelism=2, behaves={"simulation.pyk.io/runs-for": "2"}),),
    ),
    Mutation(
        "watches do not tell of removals",
        "comes to rest",
        _removals_are_not_told,
        (_WEB, Operation(20, "delete", "deployment", "web", body="Background")),
        seconds=25,
    ),
)
