"""This node's own Node object: registered when it is missing, its status kept true, its lease renewed.

One loop with one key watches the agent's view of its Node and posts: the object when there is none (at the start, or
when somebody deleted it), the labels that the agent owns, and the status when it changed or is older than a minute.
What it decides is pure (`registration`, `desired_status`, `is_due`). The lease is the heartbeat; the status is not.
An API server that is away is waited for; a second writer makes the loop read again and retry.
"""

from __future__ import annotations

import asyncio
import copy
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyk
from agent.capacity import Capacity, NodeResources
from agent.images.image import Image
from agent.runtime.contract import OWN_HANDLERS
from pyk.api.joining import INSTALLATION
from pyk.api.kinds import NODE
from pyk.api.objects import Object, annotations_of, condition_of, labels_of
from pyk.client.client import Client
from pyk.client.informer import Informer
from pyk.errors import UserError
from pyk.reconcile.clock import Clock, parse_timestamp, timestamp
from pyk.reconcile.controller import Controller, Result
from pyk.version import KUBERNETES_VERSION

STATUS_PERIOD_SECONDS = 60.0
CAPACITY_PERIOD_SECONDS = 10.0
IMAGES_SHOWN = 50
"""The kubelet's default, nodeStatusMaxImages."""
RUNTIME_VERSION = f"pyk://{pyk.__version__}"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class Identity:
    """What of the Node does not change while the agent runs. `ips` are its InternalIPs, `port` the node API's,
    `handlers` name the other OCI runtimes that it has."""

    name: str
    ips: Sequence[str]
    port: int
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    info: Mapping[str, str] = field(default_factory=dict)
    handlers: Sequence[str] = ()
    installation: str = ""
    """Which machine this is: kept on its disk, and on its Node. Empty where nobody else could claim the name."""


class NameTaken(UserError):
    """The Node belongs to another machine."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What of it does. `pressures` are the conditions of want that hold; `not_ready` says why pods cannot run (empty
    when they can)."""

    capacity: Capacity
    allocatable: Capacity
    pressures: Sequence[str]
    not_ready: str
    images: tuple[Mapping[str, Any], ...] = ()


def machine_info() -> dict[str, str]:
    """`status.nodeInfo` of this machine."""
    return {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "bootID": _first_line("/proc/sys/kernel/random/boot_id"),
        "containerRuntimeVersion": RUNTIME_VERSION,
        "kernelVersion": os.uname().release,
        "kubeProxyVersion": "",
        "kubeletVersion": KUBERNETES_VERSION,
        "machineID": _first_line("/etc/machine-id"),
        "operatingSystem": "linux",
        "osImage": _os_name(),
        "systemUUID": _first_line("/sys/class/dmi/id/product_uuid"),
    }


def own_labels(identity: Identity) -> dict[str, str]:
    """The labels that the agent answers for."""
    architecture = identity.info.get("architecture", "")
    return {
        "beta.kubernetes.io/arch": architecture,
        "beta.kubernetes.io/os": "linux",
        "kubernetes.io/arch": architecture,
        "kubernetes.io/hostname": identity.name,
        "kubernetes.io/os": "linux",
        **identity.labels,
    }


def own_annotations(identity: Identity) -> dict[str, str]:
    """The annotations that the agent answers for."""
    installation = {INSTALLATION: identity.installation} if identity.installation else {}
    return {**identity.annotations, **installation}


def registration(identity: Identity, observed: Observed, now: float) -> Object:
    """The Node as it is first created."""
    node: Object = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": identity.name,
            "labels": own_labels(identity),
        },
        "spec": {},
    }
    if annotations := own_annotations(identity):
        node["metadata"]["annotations"] = annotations
    node["status"] = desired_status(identity, observed, node, now)
    return node


def check_ours(identity: Identity, node: Object) -> None:
    """Raises `NameTaken` when another machine registered the Node."""
    owner = annotations_of(node).get(INSTALLATION, "")
    if identity.installation and owner not in ("", identity.installation):
        raise NameTaken(
            f"the cluster has a node {identity.name} on another machine: start this one with another --node-name, or "
            f"remove that node with 'pyk node rm {identity.name}'"
        )


def desired_status(identity: Identity, observed: Observed, node: Object, now: float) -> dict[str, Any]:
    """The status to post: ours, with the conditions of others and the times of our unchanged conditions kept.

    Extended resources are others' to tell, in the capacity; all of them can be allocated, as the kubelet has it.
    `now` is in seconds since the epoch and becomes the heartbeat of every condition of ours.
    """
    status = copy.deepcopy(node.get("status") or {})
    ours = [_condition(node, *given, now) for given in _conditions(observed)]
    types = {condition["type"] for condition in ours}
    others = [condition for condition in status.get("conditions") or () if condition["type"] not in types]
    extended = {name: text for name, text in (status.get("capacity") or {}).items() if is_extended(name)}
    status.update(
        capacity={**extended, **observed.capacity.quantities()},
        allocatable={**extended, **observed.allocatable.quantities()},
        addresses=[
            *({"type": "InternalIP", "address": address} for address in identity.ips),
            {"type": "Hostname", "address": identity.name},
        ],
        conditions=[*others, *ours],
        daemonEndpoints={"kubeletEndpoint": {"Port": identity.port}},
        nodeInfo=dict(identity.info),
        images=[dict(image) for image in largest_images(observed.images)],
        features={"supplementalGroupsPolicy": True},
        runtimeHandlers=_runtime_handlers(identity.handlers),
    )
    return status


def is_extended(resource: str) -> bool:
    """Whether a resource is one that the node knows by name only: `example.com/gpu`."""
    domain, slash, _ = resource.rpartition("/")
    return bool(slash) and not resource.startswith("requests.") and not f".{domain}".endswith(".kubernetes.io")


def _runtime_handlers(others: Iterable[str]) -> list[dict[str, Any]]:
    """The runtimes that a RuntimeClass can name; the empty name is the default."""
    features = {"recursiveReadOnlyMounts": True, "userNamespaces": True}
    own = [{"name": name, "features": dict(features)} for name in OWN_HANDLERS]
    return own + [{"name": name, "features": dict.fromkeys(features, False)} for name in others]


def largest_images(images: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The largest images first, at most `IMAGES_SHOWN`."""
    ordered = sorted(images, key=lambda image: (-int(image["sizeBytes"]), list(image["names"])))
    return ordered[:IMAGES_SHOWN]


def shown_image(image: Image) -> dict[str, Any]:
    """An image as `status.images` has it."""
    names = [f"{image.repository}@{image.digest}"] if image.digest else []
    return {"names": [*names, *([] if image.name in names else [image.name])], "sizeBytes": image.size}


def is_due(node: Object, desired: Mapping[str, Any], now: float) -> bool:
    """Whether to post: something but the heartbeats differs, or the last heartbeat is a period old."""
    present = node.get("status") or {}
    if _without_heartbeats(present) != _without_heartbeats(desired):
        return True
    ready = condition_of(node, "Ready")
    return ready is None or now - parse_timestamp(ready["lastHeartbeatTime"]) >= STATUS_PERIOD_SECONDS


class NodeRegistrar:
    """The loop around those decisions.

    `nodes` is an informer of this one Node. `allocatable` tells of a capacity what pods may ask for; `pressures`,
    `not_ready` and `images` are asked at each turn; call `changed` when their answers may have changed.
    """

    def __init__(
        self,
        client: Client,
        nodes: Informer,
        identity: Identity,
        resources: NodeResources,
        *,
        clock: Clock,
        allocatable: Callable[[Capacity], Capacity],
        pressures: Callable[[], Sequence[str]],
        not_ready: Callable[[], str],
        images: Callable[[], Iterable[Mapping[str, Any]]] = lambda: (),
    ) -> None:
        self._client = client
        self._nodes = nodes
        self._identity = identity
        self._resources = resources
        self._clock = clock
        self._allocatable = allocatable
        self._pressures = pressures
        self._not_ready = not_ready
        self._images = images
        self._controller = Controller("node-status", self._reconcile, clock=clock, max_delay=5.0)
        self._controller.watches(nodes)
        self._taken = asyncio.Event()

    def changed(self) -> None:
        """Look again, now."""
        self._controller.enqueue(self._identity.name)

    async def run(self) -> None:
        """Until cancelled. Raises `NameTaken`."""
        self.changed()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._controller.run())
            group.create_task(self._stop_when_taken())

    async def _stop_when_taken(self) -> None:
        await self._taken.wait()
        check_ours(self._identity, self._nodes.get(self._identity.name) or {"metadata": {}})

    def observe(self) -> Observed:
        """The node's state at this moment."""
        node = self._resources.capacity()
        return Observed(
            capacity=node,
            allocatable=self._allocatable(node),
            pressures=tuple(self._pressures()),
            not_ready=self._not_ready(),
            images=tuple(self._images()),
        )

    async def _reconcile(self, name: str) -> Result | None:
        observed, now = self.observe(), self._clock.time()
        node = self._nodes.get(name)
        if node is None:
            await self._client.create(NODE, registration(self._identity, observed, now))
            return None  # its arrival in the cache is the next turn
        try:
            check_ours(self._identity, node)
        except NameTaken:
            self._taken.set()
            return None
        labels = own_labels(self._identity)
        ours = own_annotations(self._identity)
        if any(labels_of(node).get(key) != value for key, value in labels.items()) or any(
            annotations_of(node).get(key) != value for key, value in ours.items()
        ):
            await self._client.patch(NODE, name, "", {"metadata": {"labels": labels, "annotations": ours}})
            return None
        status = desired_status(self._identity, observed, node, now)
        if is_due(node, status, now):
            await self._client.update(NODE, {**node, "status": status}, subresource="status")
        return Result(requeue_after=CAPACITY_PERIOD_SECONDS)


_PRESSURES = (
    ("MemoryPressure", "KubeletHasInsufficientMemory", "kubelet has insufficient memory available",
     "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    ("DiskPressure", "KubeletHasDiskPressure", "kubelet has disk pressure",
     "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    ("PIDPressure", "KubeletHasInsufficientPID", "kubelet has insufficient PID available",
     "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
)  # fmt: skip


def _conditions(observed: Observed) -> list[tuple[str, bool, str, str]]:
    """Type, whether true, reason and message of the agent's conditions, in the kubelet's words."""
    found = []
    for kind, lacking, lacks, enough, sufficient in _PRESSURES:
        holds = kind in observed.pressures
        found.append((kind, holds, lacking if holds else enough, lacks if holds else sufficient))
    return [
        *found,
        (
            ("Ready", False, "KubeletNotReady", observed.not_ready)
            if observed.not_ready
            else ("Ready", True, "KubeletReady", "kubelet is posting ready status")
        ),
    ]


def _condition(node: Object, kind: str, is_true: bool, reason: str, message: str, now: float) -> dict[str, Any]:
    status = "True" if is_true else "False"
    before = condition_of(node, kind)
    since = before["lastTransitionTime"] if before is not None and before["status"] == status else timestamp(now)
    return {
        "type": kind,
        "status": status,
        "lastHeartbeatTime": timestamp(now),
        "lastTransitionTime": since,
        "reason": reason,
        "message": message,
    }


def _without_heartbeats(status: Mapping[str, Any]) -> dict[str, Any]:
    conditions = [
        {key: value for key, value in condition.items() if key != "lastHeartbeatTime"}
        for condition in status.get("conditions") or ()
    ]
    return {**status, "conditions": sorted(conditions, key=lambda condition: str(condition["type"]))}


def _first_line(path: str) -> str:
    file = Path(path)
    try:
        return file.read_text().strip()
    except (FileNotFoundError, PermissionError):
        return ""  # a machine without the file has no such identifier


def _os_name() -> str:
    for line in _first_line("/etc/os-release").splitlines():
        key, _, value = line.partition("=")
        if key == "PRETTY_NAME":
            return value.strip('"')
    return "Linux"
