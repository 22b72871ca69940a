"""The commands of scenario files: what happens in the world, and which loop decides now.

A command is a word, mostly a name, then `key=value` settings and flags. Times are in seconds. Each loop's decision is
the real one (`controlplane.controllers`); only what surrounds it is played here.
"""

from __future__ import annotations

import copy
import shlex
from collections.abc import Callable, Iterable
from typing import Any

from controlplane.controllers import (
    deployment,
    descheduler,
    disruption,
    namespace,
    nodelifecycle,
    podgc,
    replicaset,
    resourcequota,
    tainteviction,
)
from controlplane.controllers.autoscaling import decide as autoscaling
from controlplane.controllers.claims import claim, claim_actions
from controlplane.controllers.ownergraph import Item, Owner, OwnerGraph
from controlplane.controllers.ownergraph import decide as decide_collection
from controlplane.controllers.revisions import revision_of
from pyk.api.kinds import TABLE
from pyk.api.objects import Object, controller_of, owner_reference, uid_of
from pyk.api.quota import shown
from pyk.api.selectors import from_document
from pyk.reconcile.actions import Action, UpdateStatus
from pyk.reconcile.clock import timestamp
from tests.scenarios.certificate_actors import CertificateActors
from tests.scenarios.job_actors import JobActors
from tests.scenarios.network_actors import NetworkActors
from tests.scenarios.node_network_actors import NodeNetwork, NodeNetworkActors
from tests.scenarios.pressure_actors import PressureActors
from tests.scenarios.service_actors import ServiceActors
from tests.scenarios.workload_actors import WorkloadActors
from tests.scenarios.world import World

Settings = dict[str, str]
NAMESPACE = "default"


class Actors(
    CertificateActors,
    NetworkActors,
    NodeNetworkActors,
    PressureActors,
    ServiceActors,
    WorkloadActors,
    JobActors,
):
    """Performs commands in one world."""

    def __init__(self) -> None:
        self.world = World()
        self.node_network = NodeNetwork()
        self._memories: dict[str, autoscaling.Memory] = {}
        self._commands: dict[str, Callable[[str, Settings], list[str]]] = {
            name.removeprefix("do_"): getattr(self, name) for name in dir(self) if name.startswith("do_")
        }

    def perform(self, command: str) -> list[str]:
        """The lines that one command answers."""
        word, *rest = shlex.split(command)
        name = rest.pop(0) if rest and "=" not in rest[0] else ""
        settings = {key: value or "yes" for key, _, value in (part.partition("=") for part in rest)}
        return self._commands[word](name, settings)

    def _carry_out(self, actions: Iterable[Any]) -> list[str]:
        return [line for action in actions for line in self.world.carry_out(action)]

    def _set(self, kind: str, api_version: str, name: str, change: Callable[[Object], None]) -> list[str]:
        """Create the object, or change it as a person would."""
        known = self.world.get(kind, name)
        metadata = {"name": name, "namespace": NAMESPACE}
        obj = copy.deepcopy(known) or {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": {}}
        before = copy.deepcopy(obj["spec"])
        change(obj)
        if known is None:
            self.world.add(obj)
        else:
            obj["metadata"]["generation"] += obj["spec"] != before
            self.world.replace(obj)
        return []

    def do_wait(self, name: str, settings: Settings) -> list[str]:
        """Let seconds pass."""
        self.world.now += float(name)
        return []

    def do_gone(self, name: str, settings: Settings) -> list[str]:
        """An object is removed, for whatever reason."""
        self.world.remove(next(kind for kind, known in self.world.names() if known == name), name)
        return []

    # Deployments

    def do_deployment(self, name: str, settings: Settings) -> list[str]:
        """A person creates or changes a Deployment."""

        def change(obj: Object) -> None:
            spec = obj["spec"]
            spec.setdefault("replicas", 1)
            spec.setdefault("selector", {"matchLabels": {"app": name}})
            spec.setdefault("progressDeadlineSeconds", 600)
            spec.setdefault("revisionHistoryLimit", 10)
            spec.setdefault("strategy", {"type": "RollingUpdate", "rollingUpdate": {}})
            container = {"name": "main", "image": settings.get("image", "a")}
            template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}}
            spec.setdefault("template", template)
            numbers = {"replicas": "replicas", "deadline": "progressDeadlineSeconds", "history": "revisionHistoryLimit"}
            for setting, field in numbers.items():
                if setting in settings:
                    spec[field] = int(settings[setting])
            if "image" in settings:
                spec["template"]["spec"]["containers"][0]["image"] = settings["image"]
            for setting, field in {"surge": "maxSurge", "unavailable": "maxUnavailable"}.items():
                if setting in settings:
                    limit = settings[setting]
                    spec["strategy"]["rollingUpdate"][field] = limit if limit.endswith("%") else int(limit)
            if settings.get("strategy") == "Recreate":
                spec["strategy"] = {"type": "Recreate"}
            if "paused" in settings or "resumed" in settings:
                spec["paused"] = "paused" in settings
            if "cause" in settings:
                obj["metadata"]["annotations"] = {
                    **(obj["metadata"].get("annotations") or {}),
                    "kubernetes.io/change-cause": settings["cause"],
                }

        return self._set("Deployment", "apps/v1", name, change)

    def do_deploy(self, name: str, settings: Settings) -> list[str]:
        """The Deployment loop takes one step."""
        found = self.world.find("Deployment", name)
        sets = [each for each in self.world.all("ReplicaSet") if _is_controlled(each, found)]
        pods = {uid_of(each): [pod for pod in self.world.all("Pod") if _is_controlled(pod, each)] for each in sets}
        return self._carry_out(deployment.decide(deployment.Observed(found, sets, self.world.now, pods)))

    def do_rollout(self, name: str, settings: Settings) -> list[str]:
        """The Deployment loop takes steps until there is nothing left to do; only what it does to sets is shown."""
        lines: list[str] = []
        while step := self.do_deploy(name, settings):
            lines += [line for line in step if line.startswith(("create", "update", "delete"))]
        return lines

    def do_pods(self, name: str, settings: Settings) -> list[str]:
        """The pods of `web@1` have come to the set's size; so many are `ready` and `available`."""
        owner, _, revision = name.partition("@")
        replica_set = next(
            copy.deepcopy(each)
            for each in self.world.all("ReplicaSet")
            if (controller_of(each) or {}).get("name") == owner and revision_of(each) == int(revision)
        )
        replicas = replica_set["spec"]["replicas"]
        ready = min(replicas, int(settings.get("ready", replicas)))
        replica_set["status"] = {
            "replicas": replicas,
            "readyReplicas": ready,
            "availableReplicas": int(settings.get("available", ready)),
            "observedGeneration": replica_set["metadata"]["generation"],
        }
        self.world.replace(replica_set)
        return []

    # ReplicaSets and pods

    def do_replicaset(self, name: str, settings: Settings) -> list[str]:
        """A person creates or changes a ReplicaSet that selects `app=NAME`."""

        def change(obj: Object) -> None:
            labels = {"app": name}
            obj["spec"] |= {
                "replicas": int(settings.get("replicas", 1)),
                "minReadySeconds": int(settings.get("min_ready", 0)),
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": []}},
            }

        return self._set("ReplicaSet", "apps/v1", name, change)

    def do_pod(self, name: str, settings: Settings) -> list[str]:
        """A pod is there, or changes: `of=SET node= phase= ready=SECONDS age=SECONDS cost= restarts= leaving app=`."""

        def change(obj: Object) -> None:
            metadata, spec = obj["metadata"], obj["spec"]
            status = obj.setdefault("status", {"phase": "Running"})
            if owner := settings.get("of"):
                replica_set = self.world.find("ReplicaSet", owner)
                metadata["ownerReferences"] = [owner_reference(replica_set)]
                metadata["labels"] = {"app": owner}
            if "app" in settings:
                metadata["labels"] = {"app": settings["app"]}
            if "age" in settings:
                metadata["creationTimestamp"] = timestamp(self.world.now - float(settings["age"]))
            if "cost" in settings:
                metadata["annotations"] = {"controller.kubernetes.io/pod-deletion-cost": settings["cost"]}
            if "leaving" in settings:
                metadata["deletionTimestamp"] = timestamp(self.world.now)
            if "node" in settings:
                spec["nodeName"] = settings["node"]
            if "disk" in settings:
                spec["nodeSelector"] = {"disk": settings["disk"]}
            if "tolerates" in settings:
                spec["tolerations"] = [_toleration(text) for text in settings["tolerates"].split(",")]
            status["phase"] = settings.get("phase", status["phase"])
            if "restarts" in settings:
                status["containerStatuses"] = [{"restartCount": int(settings["restarts"])}]
            if "ready" in settings:
                since = timestamp(self.world.now - float(settings["ready"]))
                status["conditions"] = [{"type": "Ready", "status": "True", "lastTransitionTime": since}]

        return self._set("Pod", "v1", name, change)

    def do_replicate(self, name: str, settings: Settings) -> list[str]:
        """The ReplicaSet loop takes one step."""
        found = self.world.find("ReplicaSet", name)
        failure = replicaset.Failure("FailedCreate", settings["refused"]) if "refused" in settings else None
        selector = from_document(found["spec"]["selector"]) or ()
        claims = claim(found, selector, self.world.all("Pod"))
        lines = self._carry_out(claim_actions(found, claims))
        crowd: dict[str, int] = {}
        for pod in claims.owned:
            node = (pod.get("spec") or {}).get("nodeName") or ""
            crowd[node] = crowd.get(node, 0) + 1
        if failure is None:
            decided = replicaset.decide(replicaset.Observed(found, claims.owned, self.world.now, crowd))
            lines += self._carry_out(decided)
        pods = [pod for pod in self.world.all("Pod") if _is_controlled(pod, found)]
        return lines + self._carry_out(
            replicaset.decide_status(replicaset.Observed(found, pods, self.world.now), failure)
        )

    # Owners and dependents

    def do_object(self, name: str, settings: Settings) -> list[str]:
        """A ConfigMap with owners: `of=a,b!` (`!`: it blocks that owner's deletion) and `finalizer=`."""

        def change(obj: Object) -> None:
            references = []
            for text in settings.get("of", "").split(","):
                if text:
                    owner = self.world.get("ConfigMap", text.rstrip("!")) or _missing(text.rstrip("!"))
                    reference = owner_reference(owner, controller=False)
                    references.append(reference | {"blockOwnerDeletion": text.endswith("!")})
            obj["metadata"]["ownerReferences"] = references
            if "finalizer" in settings:
                obj["metadata"]["finalizers"] = [settings["finalizer"]]

        return self._set("ConfigMap", "v1", name, change)

    def do_delete(self, name: str, settings: Settings) -> list[str]:
        """A person deletes an object, in the `foreground`, as `orphan`, or in the background."""
        policy = "Foreground" if "foreground" in settings else "Orphan" if "orphan" in settings else "Background"
        self.world.delete("ConfigMap", name, policy)
        return []

    def do_collect(self, name: str, settings: Settings) -> list[str]:
        """The garbage collector looks at every object until there is nothing left to do."""
        lines: list[str] = []
        while step := self._collect_once():
            lines += step
        return lines

    def _collect_once(self) -> list[str]:
        graph = OwnerGraph()
        items = [Item.of(obj) for obj in self.world.all()]
        for item in items:
            graph.put(item)
        for item in items:
            owners = {owner["uid"]: _state(graph.get(owner["uid"])) for owner in item.owners}
            if actions := decide_collection(item, graph.dependents(item.uid), owners):
                return self._carry_out(actions)
        return []

    # Nodes

    def do_node(self, name: str, settings: Settings) -> list[str]:
        """A node says that it is `ready=True|False|Unknown`; `cordoned`, `uncordoned`, `taint=KEY:EFFECT`."""

        def change(obj: Object) -> None:
            obj["metadata"].pop("namespace", None)
            status = obj.setdefault("status", {})
            if "ready" in settings:
                status["conditions"] = [{"type": "Ready", "status": settings["ready"], "reason": "Said"}]
            if "disk" in settings:
                obj["metadata"]["labels"] = {"disk": settings["disk"]}
            if "cordoned" in settings or "uncordoned" in settings:
                obj["spec"]["unschedulable"] = "cordoned" in settings
            if "taint" in settings:
                key, _, effect = settings["taint"].partition(":")
                taint = {"key": key, "effect": effect, "timeAdded": timestamp(self.world.now)}
                obj["spec"]["taints"] = [taint]

        return self._set("Node", "v1", name, change)

    def do_judge(self, name: str, settings: Settings) -> list[str]:
        """The node lifecycle loop takes one step; the node is `silent` and `evictable` if it says so."""
        pods = [pod for pod in self.world.all("Pod") if pod["spec"].get("nodeName") == name]
        node = self.world.find("Node", name)
        observed = nodelifecycle.Observed(node, "silent" in settings, "evictable" in settings, pods, self.world.now)
        return self._carry_out(nodelifecycle.decide(observed))

    def do_evict(self, name: str, settings: Settings) -> list[str]:
        """The taint eviction loop looks at a pod."""
        pod = self.world.find("Pod", name)
        node = self.world.find("Node", pod["spec"]["nodeName"])
        taints = [taint for taint in node["spec"].get("taints") or () if taint["effect"] == "NoExecute"]
        since = {(taint["key"], ""): tainteviction.parse_timestamp(taint["timeAdded"]) for taint in taints}
        observed = tainteviction.Observed(pod, taints, since, self.world.now)
        moment = tainteviction.eviction_time(observed)
        if moment is None:
            return ["stays"]
        if moment > self.world.now:
            return [f"stays for {moment - self.world.now:.0f} s"]
        return self._carry_out(tainteviction.decide(observed))

    def do_deschedule(self, name: str, settings: Settings) -> list[str]:
        """The descheduler takes a turn; what it evicts goes at once."""
        nodes = {node["metadata"]["name"]: node for node in self.world.all("Node")}
        lines = []
        for misplaced in descheduler.decide(descheduler.Observed(nodes, self.world.all("Pod"), {})):
            lines.append(f"evict pod {misplaced.pod['metadata']['name']}: {misplaced.why}")
            self.world.remove("Pod", misplaced.pod["metadata"]["name"])
        return lines

    def do_collect_pods(self, name: str, settings: Settings) -> list[str]:
        """The pod garbage collector looks at a node that is there."""
        pods = [pod for pod in self.world.all("Pod") if pod["spec"].get("nodeName") == name]
        return self._carry_out(podgc.decide_out_of_service(self.world.find("Node", name), pods, self.world.now))

    def do_orphaned(self, name: str, settings: Settings) -> list[str]:
        """The pod garbage collector finds that a node is gone."""
        pods = [pod for pod in self.world.all("Pod") if pod["spec"].get("nodeName") == name]
        return self._carry_out(podgc.decide_orphaned(pods, self.world.now))

    # Disruption budgets

    def do_budget(self, name: str, settings: Settings) -> list[str]:
        """A PodDisruptionBudget for `app=APP`: `min=` or `max=`; `granted=POD` notes an eviction as the server does."""

        def change(obj: Object) -> None:
            spec = obj["spec"]
            for setting, field in {"min": "minAvailable", "max": "maxUnavailable"}.items():
                if setting in settings:
                    share = settings[setting]
                    spec[field] = share if share.endswith("%") else int(share)
            if "app" in settings:
                spec["selector"] = {"matchLabels": {"app": settings["app"]}}
            if "granted" in settings:
                status = obj["status"]
                status["disruptionsAllowed"] -= 1
                noted = {settings["granted"]: timestamp(self.world.now)}
                status["disruptedPods"] = {**(status.get("disruptedPods") or {}), **noted}

        return self._set("PodDisruptionBudget", "policy/v1", name, change)

    def do_account(self, name: str, settings: Settings) -> list[str]:
        """The disruption loop counts a budget's pods; their owners want `wanted=`, or have no scale: `unknown=`."""
        budget = self.world.find("PodDisruptionBudget", name)
        labels = budget["spec"]["selector"]["matchLabels"]
        pods = [pod for pod in self.world.all("Pod") if (pod["metadata"].get("labels") or {}) == labels]
        wanted = int(settings["wanted"]) if "wanted" in settings else None
        observed = disruption.Observed(budget, pods, self.world.now, wanted, settings.get("unknown", ""))
        wait = disruption.seconds_to_recheck(observed)
        lines = self._carry_out(disruption.decide(observed))
        return lines + ([] if wait is None else [f"looks again in {wait:.0f} s"])

    def do_target(self, name: str, settings: Settings) -> list[str]:
        """Somebody means to disrupt a pod, and says so in its conditions."""

        def change(obj: Object) -> None:
            condition = {"type": "DisruptionTarget", "status": "True", "lastTransitionTime": timestamp(self.world.now)}
            obj["status"]["conditions"] = [condition]

        return self._set("Pod", "v1", name, change)

    def do_doubt(self, name: str, settings: Settings) -> list[str]:
        """The disruption loop looks at a pod that was to be disrupted."""
        return self._carry_out(disruption.decide_stale(self.world.find("Pod", name), self.world.now))

    # Autoscalers

    def do_autoscaler(self, name: str, settings: Settings) -> list[str]:
        """A HorizontalPodAutoscaler: `min= max=`; `up=` and `down=PODS/SECONDS` limit it, `steady=SECONDS`."""

        def change(obj: Object) -> None:
            spec = obj["spec"]
            spec |= {"minReplicas": int(settings.get("min", 1)), "maxReplicas": int(settings.get("max", 10))}
            for setting, direction in {"up": "scaleUp", "down": "scaleDown"}.items():
                if setting in settings:
                    pods, _, seconds = settings[setting].partition("/")
                    policy = {"type": "Pods", "value": int(pods), "periodSeconds": int(seconds)}
                    rules = {"policies": [policy], "stabilizationWindowSeconds": int(settings.get("steady", 0))}
                    spec.setdefault("behavior", {})[direction] = rules

        return self._set("HorizontalPodAutoscaler", "autoscaling/v2", name, change)

    def do_autoscale(self, name: str, settings: Settings) -> list[str]:
        """The loop looks at a target that should have `current=` pods; metrics ask for `asks=5,6`, `?` unknown."""
        found = self.world.find("HorizontalPodAutoscaler", name)
        memory = self._memories.setdefault(name, autoscaling.Memory())
        results: list[autoscaling.Result] = []
        for word in settings.get("asks", "").split(","):
            if word == "?":
                results.append(autoscaling.Problem("FailedGetResourceMetric", "nothing is known"))
            elif word:
                results.append(autoscaling.Proposal(int(word), "cpu resource", {"type": "Resource"}))
        now = self.world.now
        current = int(settings["current"])
        outcome = autoscaling.decide(autoscaling.Observed(found, current, results, memory, now, now))
        if outcome.recommendation is not None:
            memory.recommend(outcome.recommendation, now)
        self.world.carry_out(UpdateStatus({**found, "status": outcome.status}))
        told = {each["type"]: f"{each['status']}/{each['reason']}" for each in outcome.status["conditions"]}
        lines = [" ".join(f"{kind}={what}" for kind, what in told.items())]
        lines += [f"event {kind} {reason}: {message}" for kind, reason, message in outcome.events]
        if outcome.replicas is not None:
            memory.resize(current, outcome.replicas, now)
            lines.append(f"scale {current}->{outcome.replicas}: {outcome.reason}")
        return lines

    # Namespaces

    def do_namespace(self, name: str, settings: Settings) -> list[str]:
        """A namespace that a person has just deleted."""

        def change(obj: Object) -> None:
            obj["metadata"]["deletionTimestamp"] = timestamp(self.world.now)
            obj["spec"]["finalizers"] = ["kubernetes"]
            obj["status"] = {"phase": "Terminating"}

        return self._set("Namespace", "v1", name, change)

    def do_empty(self, name: str, settings: Settings) -> list[str]:
        """The namespace loop takes one step."""
        content = {kind: self.world.all(kind.kind) for kind in TABLE if kind.namespaced}
        observed = namespace.Observed(self.world.find("Namespace", name), content, self.world.now)
        lines: list[str] = []
        for action in namespace.decide(observed):
            match action:
                case namespace.DeleteCollection(kind):
                    lines.append(f"delete all {kind.plural}")
                    for obj in self.world.all(kind.kind):
                        self.world.delete(kind.kind, obj["metadata"]["name"], "Background")
                case namespace.Finalize(finalized):
                    lines.append(f"finalize {name}: {finalized['spec']['finalizers']}")
                case _:
                    lines += self._told_conditions(action)
        return lines

    def do_quota(self, name: str, settings: Settings) -> list[str]:
        """A ResourceQuota: `hard=pods=3,cpu=1`; `used=...` is what it says already."""

        def amounts(field: str) -> dict[str, str]:
            return dict(part.split("=") for part in settings.get(field, "").split(",") if part)

        def change(obj: Object) -> None:
            if "hard" in settings:
                obj["spec"]["hard"] = amounts("hard")
            if "used" in settings:
                obj["status"] = {"hard": obj["spec"]["hard"], "used": amounts("used")}

        return self._set("ResourceQuota", "v1", name, change)

    def do_recount(self, name: str, settings: Settings) -> list[str]:
        """The resource quota loop looks at a quota; `unsettled` when it was charged a moment ago."""
        quota = self.world.get("ResourceQuota", name) or _missing(name)
        content = {
            kind: [obj for obj in self.world.all(kind.kind) if obj["apiVersion"] == kind.api_version]
            for kind in resourcequota.counted_kinds(quota, TABLE)
        }
        lines = []
        for action in resourcequota.decide(quota, content, is_settled="unsettled" not in settings):
            self.world.carry_out(action)
            used = action.obj["status"]["used"] if isinstance(action, UpdateStatus) else {}
            lines.append(f"{name}: used {shown(used)}")
        return lines

    def _told_conditions(self, action: Action) -> list[str]:
        """Only what holds of the many conditions."""
        self.world.carry_out(action)
        assert isinstance(action, namespace.UpdateStatus)
        holding = [each for each in action.obj["status"]["conditions"] if each["status"] == "True"]
        return [f"{each['type']}: {each['message']}" for each in holding]


def _is_controlled(obj: Object, owner: Object) -> bool:
    return (controller_of(obj) or {}).get("uid") == uid_of(owner)


def _missing(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "uid": f"uid-{name}"}}


def _state(owner: Item | None) -> Owner:
    if owner is None:
        return Owner.ABSENT
    return Owner.WAITING if owner.is_deleting_dependents else Owner.SOLID


def _toleration(text: str) -> dict[str, Any]:
    key, _, seconds = text.partition(":")
    toleration: dict[str, Any] = {"key": key, "operator": "Exists"} if key != "*" else {"operator": "Exists"}
    return toleration | ({"tolerationSeconds": int(seconds)} if seconds else {})
