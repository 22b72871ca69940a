"""What people do to the cluster during a run: operations, drawn from the seed before it begins.

An operation is data that names its object and what becomes of it, so that a failing run can be made shorter by leaving
operations out. One whose object is not there does nothing. `perform` does one, through the API, as somebody with
patience would: what fails for a reason that may pass is tried again.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from pyk.api.kinds import (
    DAEMON_SET,
    DEPLOYMENT,
    JOB,
    NAMESPACE,
    NODE,
    POD,
    POD_DISRUPTION_BUDGET,
    RESOURCE_QUOTA,
    SERVICE,
    STATEFUL_SET,
    Kind,
)
from pyk.api.objects import Object, controller_of, name_of, namespace_of
from pyk.api.status import ApiError
from pyk.client.client import Client, ClientUnavailable
from pyk.reconcile.clock import Clock

SPACE = "default"
SPACES = (SPACE, "shop")
_TRIES = 60
_KINDS: dict[str, Kind] = {
    kind.singular: kind
    for kind in (DEPLOYMENT, STATEFUL_SET, DAEMON_SET, JOB, POD_DISRUPTION_BUDGET, SERVICE, NAMESPACE, RESOURCE_QUOTA)
}


@dataclass(frozen=True, slots=True)
class Operation:
    """At second `at`: `verb` is create, patch, delete, evict, kill, drain or uncordon; `what` a kind's singular name.

    `body` is the document or the merge patch. Of several pods that `name` may mean, `pick` (0 to 1) chooses.
    """

    at: float
    verb: str
    what: str
    name: str
    namespace: str = SPACE
    body: Any = None
    pick: float = 0.0
    told: str = field(default="")

    def __str__(self) -> str:
        place = f"{self.namespace}/" if self.namespace else ""
        return f"{self.at:8.2f}  {self.verb} {self.what} {place}{self.name} {self.told}".rstrip()


# Documents


def _template(name: str, dice: random.Random, *, version: int, **spec: Any) -> Object:
    starts = dice.choice(("0.1-1", "0.5-5", "1-15"))
    annotations = {
        "simulation.pyk.io/starts-in": starts,
        "simulation.pyk.io/stops-in": dice.choice(("0-0.5", "0-3", "2-10")),
    }
    annotations |= spec.pop("annotations", {})
    return {
        "metadata": {"labels": {"app": name}, "annotations": annotations},
        "spec": {
            "terminationGracePeriodSeconds": dice.choice((1, 5, 30)),
            "containers": [
                {
                    "name": "main",
                    "image": f"app:{version}",
                    "resources": {"requests": {"cpu": f"{dice.choice((50, 100, 200))}m", "memory": "64Mi"}},
                }
            ],
            **spec,
        },
    }


def _workload(kind: Kind, name: str, namespace: str, spec: Any) -> Object:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, "spec": spec}


def _strategy(dice: random.Random) -> Object:
    if dice.random() < 0.1:
        return {"type": "Recreate"}
    surge, unavailable = dice.choice(((1, 0), ("25%", "25%"), (0, 1), (3, 2), ("50%", 0), (2, "10%"), ("100%", "50%")))
    return {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}


@dataclass(slots=True)
class _Plan:
    """What the script has made so far; versions make each template another one."""

    dice: random.Random
    most_pods: int
    version: int = 0
    made: dict[tuple[str, str, str], int] = field(default_factory=dict)
    """The pods that each workload wants, by kind, namespace and name."""
    budgets: set[str] = field(default_factory=set)

    def next_version(self) -> int:
        self.version += 1
        return self.version

    def room(self) -> int:
        return self.most_pods - sum(self.made.values())

    def replicas(self) -> int:
        return min(self.dice.choice((0, 1, 2, 3, 3, 5, 8, 12)), max(1, self.room()))

    def any_of(self, *kinds: Kind) -> tuple[Kind, str, str] | None:
        """One of the workloads of these kinds."""
        found = [key for key in self.made if key[0] in {kind.singular for kind in kinds}]
        if not found:
            return None
        kind, namespace, name = self.dice.choice(found)
        return _KINDS[kind], namespace, name


def _create(plan: _Plan, at: float) -> Operation | None:
    dice = plan.dice
    kind = dice.choice((DEPLOYMENT, DEPLOYMENT, DEPLOYMENT, STATEFUL_SET, STATEFUL_SET, JOB, JOB, DAEMON_SET))
    if plan.room() < 1 or (kind is DAEMON_SET and plan.any_of(DAEMON_SET)):
        return None
    namespace = dice.choice(SPACES) if kind is not DAEMON_SET else SPACE
    name = f"{kind.singular}-{plan.next_version()}"
    replicas = plan.replicas()
    selector = {"matchLabels": {"app": name}}
    spec: Object
    if kind is DEPLOYMENT:
        spec = {
            "replicas": replicas,
            "selector": selector,
            "strategy": _strategy(dice),
            "minReadySeconds": dice.choice((0, 0, 0, 3)),
            "revisionHistoryLimit": dice.choice((0, 1, 10)),
            "template": _template(name, dice, version=plan.version),
        }
    elif kind is STATEFUL_SET:
        spec = {
            "replicas": replicas,
            "selector": selector,
            "serviceName": name,
            "podManagementPolicy": dice.choice(("OrderedReady", "OrderedReady", "Parallel")),
            "template": _template(name, dice, version=plan.version),
        }
    elif kind is DAEMON_SET:
        rolling = dice.choice(({"maxUnavailable": 1}, {"maxUnavailable": "30%"}, {"maxSurge": 1, "maxUnavailable": 0}))
        replicas = 0
        spec = {
            "selector": selector,
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": rolling},
            "template": _template(name, dice, version=plan.version),
        }
    else:
        completions = max(1, replicas)
        annotations = {"simulation.pyk.io/runs-for": dice.choice(("1-5", "3-20"))}
        if dice.random() < 0.5:
            annotations["simulation.pyk.io/fails"] = "0.2"
        replicas = min(completions, dice.choice((1, 2, 4)))
        template = _template(name, dice, version=plan.version, restartPolicy="Never", annotations=annotations)
        spec = {
            "completions": completions,
            "parallelism": replicas,
            "backoffLimit": 20,
            "completionMode": dice.choice(("NonIndexed", "Indexed")),
            "template": template,
        }
    plan.made[kind.singular, namespace, name] = replicas
    return Operation(at, "create", kind.singular, name, namespace, _workload(kind, name, namespace, spec),
                     told=f"({replicas})")  # fmt: skip


def _scale(plan: _Plan, at: float) -> Operation | None:
    found = plan.any_of(DEPLOYMENT, STATEFUL_SET)
    if found is None:
        return None
    kind, namespace, name = found
    plan.made[kind.singular, namespace, name] = 0
    replicas = plan.replicas()
    plan.made[kind.singular, namespace, name] = replicas
    body = {"spec": {"replicas": replicas}}
    return Operation(at, "patch", kind.singular, name, namespace, body, told=f"to {replicas} replicas")


def _roll(plan: _Plan, at: float) -> Operation | None:
    found = plan.any_of(DEPLOYMENT, DEPLOYMENT, STATEFUL_SET, DAEMON_SET)
    if found is None:
        return None
    kind, namespace, name = found
    version = plan.next_version()
    annotations = {
        "version": str(version),
        "simulation.pyk.io/starts-in": plan.dice.choice(("0.1-1", "0.5-5", "1-15")),
    }
    body = {"spec": {"template": {"metadata": {"annotations": annotations}}}}
    return Operation(at, "patch", kind.singular, name, namespace, body, told=f"to version {version}")


def _pause(plan: _Plan, at: float) -> Operation | None:
    found = plan.any_of(DEPLOYMENT)
    if found is None:
        return None
    kind, namespace, name = found
    paused = plan.dice.random() < 0.4
    body = {"spec": {"paused": paused}}
    return Operation(at, "patch", kind.singular, name, namespace, body, told="paused" if paused else "resumed")


def _restrategize(plan: _Plan, at: float) -> Operation | None:
    found = plan.any_of(DEPLOYMENT)
    if found is None:
        return None
    kind, namespace, name = found
    strategy = _strategy(plan.dice)
    body = {"spec": {"strategy": {"rollingUpdate": None, **strategy}}}
    return Operation(at, "patch", kind.singular, name, namespace, body, told=f"to {strategy}")


def _delete(plan: _Plan, at: float) -> Operation | None:
    found = plan.any_of(DEPLOYMENT, STATEFUL_SET, JOB, DAEMON_SET)
    if found is None:
        return None
    kind, namespace, name = found
    del plan.made[kind.singular, namespace, name]
    policy = plan.dice.choice(("Background", "Foreground"))
    return Operation(at, "delete", kind.singular, name, namespace, policy, told=f"({policy})")


def _budget(plan: _Plan, at: float) -> Operation | None:
    found = plan.any_of(DEPLOYMENT, STATEFUL_SET)
    if found is None or found[2] in plan.budgets:
        return None
    _, namespace, name = found
    plan.budgets.add(name)
    limit = plan.dice.choice(({"maxUnavailable": 1}, {"minAvailable": "50%"}, {"maxUnavailable": "30%"}))
    spec = {**limit, "selector": {"matchLabels": {"app": name}}}
    body = _workload(POD_DISRUPTION_BUDGET, name, namespace, spec)
    return Operation(at, "create", POD_DISRUPTION_BUDGET.singular, name, namespace, body, told=str(limit))


def _service(plan: _Plan, at: float) -> Operation | None:
    found = plan.any_of(DEPLOYMENT, STATEFUL_SET)
    if found is None:
        return None
    _, namespace, name = found
    spec = {"selector": {"app": name}, "ports": [{"port": 80}]}
    return Operation(at, "create", SERVICE.singular, name, namespace, _workload(SERVICE, name, namespace, spec))


def _disrupt(plan: _Plan, at: float) -> Operation | None:
    found = plan.any_of(DEPLOYMENT, STATEFUL_SET)
    if found is None:
        return None
    _, namespace, name = found
    verb = plan.dice.choice(("evict", "evict", "kill"))
    return Operation(at, verb, POD.singular, name, namespace, pick=plan.dice.random(), told="(a pod of it)")


_STEPS: tuple[tuple[Callable[[_Plan, float], Operation | None], int], ...] = (
    (_create, 6),
    (_scale, 6),
    (_roll, 6),
    (_pause, 2),
    (_restrategize, 1),
    (_delete, 2),
    (_budget, 4),
    (_service, 1),
    (_disrupt, 5),
)


def draw_script(dice: random.Random, nodes: list[str], seconds: float, *, per_minute: float) -> list[Operation]:
    """The operations of a run that lasts `seconds`, in their order; the nodes can hold what they ask for."""
    plan = _Plan(dice, most_pods=len(nodes) * 5)
    quota = {"hard": {"pods": str(len(nodes) * 4)}}
    operations = [
        Operation(0.5, "create", NAMESPACE.singular, "shop", "", _workload(NAMESPACE, "shop", "", {})),
        Operation(1.0, "create", RESOURCE_QUOTA.singular, "most", "shop",
                  _workload(RESOURCE_QUOTA, "most", "shop", quota)),
    ]  # fmt: skip
    draws, weights = zip(*_STEPS, strict=True)
    count = max(6, round(per_minute * seconds / 60))
    for at in sorted(dice.uniform(2, seconds) for _ in range(count)):
        step = _create if len(plan.made) < 2 else dice.choices(draws, weights)[0]
        if (operation := step(plan, at)) is not None:
            operations.append(operation)
    for _ in range(round(seconds / 60)):
        node, at = dice.choice(nodes), dice.uniform(5, seconds * 0.8)
        operations.append(Operation(at, "drain", NODE.singular, node, "", told=""))
        operations.append(Operation(at + dice.uniform(5, 40), "uncordon", NODE.singular, node, ""))
    if dice.random() < 0.3:
        operations.append(Operation(seconds * 0.9, "delete", NAMESPACE.singular, "shop", "", "Background"))
    return sorted(operations, key=lambda operation: operation.at)


# Doing it


async def perform(operation: Operation, client: Client, clock: Clock) -> str:
    """Do it: what came of it, in a word or two."""
    for _ in range(_TRIES):
        try:
            return await _once(operation, client)
        except ClientUnavailable:
            pass
        except ApiError as error:
            if error.reason in ("NotFound", "AlreadyExists", "Invalid", "BadRequest", "Forbidden"):
                return error.reason
            if error.code == 429 and operation.verb == "evict" and "disruption budget" in error.message:
                return "not now"
        await clock.sleep(clock.random.uniform(0.2, 1.0))
    return "given up"


async def _once(operation: Operation, client: Client) -> str:
    kind = _KINDS.get(operation.what)
    name, namespace = operation.name, operation.namespace
    match operation.verb:
        case "create":
            assert kind is not None
            await client.create(kind, operation.body, namespace=namespace)
        case "patch":
            assert kind is not None
            await client.patch(kind, name, namespace, operation.body)
        case "delete":
            assert kind is not None
            await client.delete(kind, name, namespace, propagation_policy=operation.body)
        case "uncordon":
            await client.patch(NODE, name, "", {"spec": {"unschedulable": None}})
        case "drain":
            return await _drain(name, client)
        case _:
            return await _disrupt_one(operation, client)
    return "done"


async def _disrupt_one(operation: Operation, client: Client) -> str:
    """Evict or delete one of the pods of an app."""
    listed = await client.list(POD, operation.namespace, label_selector=f"app={operation.name}")
    pods = sorted(listed.items, key=name_of)
    if not pods:
        return "there is none"
    pod = pods[int(operation.pick * len(pods))]
    if operation.verb == "kill":
        await client.delete(POD, name_of(pod), namespace_of(pod))
        return f"deleted {name_of(pod)}"
    await _evict(pod, client)
    return f"evicted {name_of(pod)}"


async def _evict(pod: Object, client: Client) -> None:
    metadata = {"name": name_of(pod), "namespace": namespace_of(pod)}
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
    await client.create(POD, eviction, namespace=namespace_of(pod), name=name_of(pod), subresource="eviction")


async def _drain(node: str, client: Client) -> str:
    """Cordon a node and evict what may go at once; what its budget keeps stays."""
    await client.patch(NODE, node, "", {"spec": {"unschedulable": True}})
    listed = await client.list(POD, field_selector=f"spec.nodeName={node}")
    gone = 0
    for pod in listed.items:
        if (controller_of(pod) or {}).get("kind") in (None, DAEMON_SET.kind):
            continue
        try:
            await _evict(pod, client)
            gone += 1
        except ApiError as error:
            if error.code not in (404, 409, 429):
                raise
    return f"evicted {gone}"


Perform = Callable[[Operation], Awaitable[str]]
