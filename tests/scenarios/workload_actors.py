"""The commands of scenario files about StatefulSets and DaemonSets: the set, what its pods do, and the loop's steps."""

from __future__ import annotations

import copy
from typing import Any

from controlplane.controllers import daemonset, statefulset
from controlplane.controllers.controllerrevisions import POD_HASH_LABEL, hash_of, oldest_first, surplus
from controlplane.controllers.controllerrevisions import decide as decide_revision
from controlplane.controllers.daemonpods import target_of
from controlplane.controllers.statefulpods import ordinal_of, revision_name
from pyk.api.kinds import BY_KIND
from pyk.api.objects import Object, controller_of, name_of, uid_of
from pyk.reconcile.actions import Create, Delete
from pyk.reconcile.clock import timestamp
from tests.scenarios.world import World

Settings = dict[str, str]
NAMESPACE = "default"


class WorkloadActors:
    """What `Actors` can do with them."""

    world: World

    def place(self, kind: str, name: str, spec: dict[str, Any], settings: Settings) -> None:
        """Create the object with its defaults, or change its spec as a person would."""
        known = self.world.get(kind, name)
        version = next(version for version, known_kind in BY_KIND if known_kind == kind)
        metadata = {"name": name, "namespace": NAMESPACE, "labels": {"app": name}}
        obj = copy.deepcopy(known) or {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}
        if "image" in settings:
            container = {"name": "main", "image": settings["image"]}
            obj["spec"]["template"]["spec"]["containers"] = [container]
        obj["spec"].update(spec if known is not None else {})
        BY_KIND[version, kind].rules.default(obj)
        if known is None:
            self.world.add(obj)
        else:
            obj["metadata"]["generation"] += 1
            self.world.replace(obj)

    def carried_out(self, actions: Any) -> list[str]:
        return [line for action in actions for line in self.world.carry_out(action)]

    def owned(self, kind: str, owner: Object) -> list[Object]:
        return [obj for obj in self.world.all(kind) if (controller_of(obj) or {}).get("uid") == uid_of(owner)]

    def do_ready(self, name: str, settings: Settings) -> list[str]:
        """Pods run and are ready, all that are named: `ready web-0,web-1`; with `for=SECONDS` since then."""
        for each in name.split(","):
            pod = copy.deepcopy(self.world.find("Pod", each))
            since = timestamp(self.world.now - float(settings.get("for", 0)))
            condition = {"type": "Ready", "status": "True", "lastTransitionTime": since}
            pod["status"] = {"phase": "Running", "conditions": [condition]}
            self.world.replace(pod)
        return []

    # StatefulSets

    def do_statefulset(self, name: str, settings: Settings) -> list[str]:
        """A StatefulSet: `replicas image partition unavailable start min_ready claims=NAME parallel on_delete`.

        `retain=scaled|deleted|both|none` says when claims stay.
        """
        spec: dict[str, Any] = {}
        if self.world.get("StatefulSet", name) is None:
            template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "main", "image": "a"}]}}
            spec |= {"selector": {"matchLabels": {"app": name}}, "template": template, "serviceName": name}
            if "claims" in settings:
                claim = {"metadata": {"name": settings["claims"]}, "spec": {}}
                spec["volumeClaimTemplates"] = [claim]
        for setting, field in {"replicas": "replicas", "min_ready": "minReadySeconds"}.items():
            if setting in settings:
                spec[field] = int(settings[setting])
        if "start" in settings:
            spec["ordinals"] = {"start": int(settings["start"])}
        if "parallel" in settings:
            spec["podManagementPolicy"] = "Parallel"
        if "on_delete" in settings:
            spec["updateStrategy"] = {"type": "OnDelete"}
        if "partition" in settings or "unavailable" in settings:
            rolling = {"partition": int(settings.get("partition", 0))}
            if "unavailable" in settings:
                rolling["maxUnavailable"] = int(settings["unavailable"])
            spec["updateStrategy"] = {"type": "RollingUpdate", "rollingUpdate": rolling}
        if "retain" in settings:
            kept = settings["retain"]
            spec["persistentVolumeClaimRetentionPolicy"] = {
                "whenScaled": "Retain" if kept in ("scaled", "both") else "Delete",
                "whenDeleted": "Retain" if kept in ("deleted", "both") else "Delete",
            }
        self.place("StatefulSet", name, spec, settings)
        return []

    def do_order(self, name: str, settings: Settings) -> list[str]:
        """The StatefulSet loop takes one step."""
        found = self.world.find("StatefulSet", name)
        revisions = oldest_first(self.owned("ControllerRevision", found))
        choice = decide_revision(found, revisions, statefulset.HASH_LABEL)
        self.carried_out(choice.actions)
        before = (found.get("status") or {}).get("currentRevision")
        current = next((each for each in revisions if name_of(each) == before), choice.revision)
        pods = [pod for pod in self.world.all("Pod") if ordinal_of(found, pod) is not None]
        claims = {name_of(claim): claim for claim in self.world.all("PersistentVolumeClaim")}
        observed = statefulset.Observed(found, pods, current, choice.revision, self.world.now, claims)
        lines = self.carried_out(statefulset.decide(observed))
        pods = [pod for pod in self.world.all("Pod") if ordinal_of(found, pod) is not None]
        after = statefulset.Observed(found, pods, current, choice.revision, self.world.now, claims)
        lines += self.carried_out(statefulset.decide_status(after))
        live = [name_of(current), name_of(choice.revision), *map(revision_name, pods)]
        dropped = surplus(revisions, live, found["spec"]["revisionHistoryLimit"])
        return [*lines, *self.carried_out(each for each in dropped if isinstance(each, Delete))]

    # DaemonSets

    def do_host(self, name: str, settings: Settings) -> list[str]:
        """A node is there, or changes: `label=KEY:VALUE taint=KEY:EFFECT`, or `untainted`."""
        node = copy.deepcopy(self.world.get("Node", name))
        obj = node or {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {}}
        if "label" in settings:
            key, _, value = settings["label"].partition(":")
            obj["metadata"]["labels"] = {key: value}
        if "taint" in settings:
            key, _, effect = settings["taint"].partition(":")
            obj["spec"]["taints"] = [{"key": key, "effect": effect}]
        if "untainted" in settings:
            obj["spec"]["taints"] = []
        if node is None:
            self.world.add(obj)
        else:
            self.world.replace(obj)
        return []

    def do_daemonset(self, name: str, settings: Settings) -> list[str]:
        """A DaemonSet: `image surge unavailable on=KEY:VALUE min_ready on_delete`."""
        spec: dict[str, Any] = {}
        if self.world.get("DaemonSet", name) is None:
            pod: dict[str, Any] = {"containers": [{"name": "main", "image": "a"}]}
            if "on" in settings:
                key, _, value = settings["on"].partition(":")
                pod["nodeSelector"] = {key: value}
            spec |= {
                "selector": {"matchLabels": {"app": name}},
                "template": {"metadata": {"labels": {"app": name}}, "spec": pod},
            }
        if "min_ready" in settings:
            spec["minReadySeconds"] = int(settings["min_ready"])
        if "surge" in settings or "unavailable" in settings:
            rolling = {"maxSurge": settings.get("surge", "0"), "maxUnavailable": settings.get("unavailable", "0")}
            numbers = {key: value if value.endswith("%") else int(value) for key, value in rolling.items()}
            spec["updateStrategy"] = {"type": "RollingUpdate", "rollingUpdate": numbers}
        if "on_delete" in settings:
            spec["updateStrategy"] = {"type": "OnDelete"}
        self.place("DaemonSet", name, spec, settings)
        return []

    def do_daemons(self, name: str, settings: Settings) -> list[str]:
        """The DaemonSet loop takes one step; the nodes of `held=a,b` wait for their next try."""
        found = self.world.find("DaemonSet", name)
        choice = decide_revision(found, self.owned("ControllerRevision", found), POD_HASH_LABEL)
        self.carried_out(choice.actions)
        hashed = hash_of(choice.revision, POD_HASH_LABEL)
        held = frozenset(settings.get("held", "").split(","))

        def observed() -> daemonset.Observed:
            pods, nodes = self.owned("Pod", found), self.world.all("Node")
            return daemonset.Observed(found, pods, nodes, hashed, self.world.now, held)

        actions = daemonset.decide(observed())
        lines = [
            f"{line} on {target_of(action.obj)}" if isinstance(action, Create) else line
            for action in actions
            for line in self.world.carry_out(action)
        ]
        return lines + self.carried_out(daemonset.decide_status(observed()))
