"""What an agent does when it comes (back) to a node: find what runs, take away what belongs to nobody.

Everything is read from the runtime: the labels of sandboxes and containers say which pod they are of, so adopting
needs no file of the agent's own. What is known of no pod, neither to the API nor to the runtime, is removed:
volumes and their mounts, logs, cgroups, network links.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from agent.pods.observed import CONTAINER_NAME, GRACE, POD_NAME, POD_NAMESPACE
from agent.pods.parts import Parts
from agent.pods.record import PodRecord
from agent.pods.resources import BEST_EFFORT, BURSTABLE, GUARANTEED, cpu_shares, qos_cgroup
from agent.runtime.contract import ContainerState, RuntimeFailure
from agent.volumes.mounts import remove_tree
from pyk.api.objects import Object

log = logging.getLogger(__name__)

FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 0.02, 2.0

_QOS_CLASSES = (GUARANTEED, BURSTABLE, BEST_EFFORT)


async def take_in(records: dict[str, PodRecord], parts: Parts, api_has: Callable[[str], bool]) -> None:
    """Make the records agree with what the runtime has now, waiting for it as long as it does not answer.

    `api_has(uid)` says whether the API object is known; where it is not, labels stand in for it.
    """
    pause = FIRST_RETRY_SECONDS
    while True:
        try:
            sandboxes = await parts.runtime.list_sandboxes()
            containers = await parts.runtime.list_containers()
            break
        except RuntimeFailure as error:
            log.info("the runtime cannot be read yet: %s", error)
            await parts.clock.sleep(pause)
            pause = min(2 * pause, LONGEST_RETRY_SECONDS)
    for sandbox in sandboxes:
        record = _record(records, sandbox.id, sandbox.labels, parts)
        if record.sandbox is None or record.sandbox.pid != sandbox.pid:
            record.is_attached = False
        record.sandbox = sandbox
        record.addresses = record.addresses or tuple(parts.network.addresses(sandbox.id))
    for state in containers:
        record = _record(records, state.sandbox_id, state.labels, parts)
        if not api_has(record.uid):
            _add_container(record.pod, state)
        parts.note(record, state)
    present = {state.id for state in containers}
    kept = {sandbox.id for sandbox in sandboxes}
    for record in records.values():
        if record.sandbox is None:
            continue
        for identifier in [identifier for identifier in record.states if identifier not in present]:
            record.lose(identifier)
        if record.uid not in kept:
            record.end_sandbox()


def _record(records: dict[str, PodRecord], uid: str, labels: Mapping[str, str], parts: Parts) -> PodRecord:
    if uid not in records:
        records[uid] = PodRecord(uid, _pod_of_labels(uid, labels), parts.clock.time(), is_admitted=True)
        records[uid].host_addresses = tuple(parts.settings.node_addresses)
    return records[uid]


def _pod_of_labels(uid: str, labels: Mapping[str, str]) -> Object:
    """As much of a pod as the runtime remembers, to end it by when the API has it no more."""
    name, namespace = labels.get(POD_NAME, uid), labels.get(POD_NAMESPACE, "")
    metadata = {"uid": uid, "name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": []}}


def _add_container(pod: Object, state: ContainerState) -> None:
    name = state.labels.get(CONTAINER_NAME, state.id)
    if all(container["name"] != name for container in pod["spec"]["containers"]):
        pod["spec"]["containers"].append({"name": name})
    if (grace := state.labels.get(GRACE)) is not None:
        pod["spec"]["terminationGracePeriodSeconds"] = int(grace)


async def sweep(known: Collection[str], alive: Iterable[str], parts: Parts) -> None:
    """Take away what is on the node but of no pod in `known` (UIDs); links of pods that are not `alive` as well."""
    await parts.network.restore(alive)
    await parts.volumes.sweep(known)
    for path in await asyncio.to_thread(_unknown_logs, parts.settings.log_root, known):
        await asyncio.to_thread(remove_tree, path)
    for group in await asyncio.to_thread(_unknown_cgroups, parts, known):
        await asyncio.to_thread(parts.cgroups.remove, group)


def _unknown_logs(root: Path, known: Collection[str]) -> list[Path]:
    if not root.is_dir():
        return []
    return [path for path in root.iterdir() if path.name.rpartition("_")[2] not in known]


def _unknown_cgroups(parts: Parts, known: Collection[str]) -> list[str]:
    found = set()
    for qos in _QOS_CLASSES:
        parent = qos_cgroup(parts.settings.cgroup_root, qos)
        for directory in parts.cgroups.directories(parent):
            for path in Path(directory).glob("pod*"):
                if path.is_dir() and path.name.removeprefix("pod") not in known:
                    found.add(f"{parent}/{path.name}")
    return sorted(found)


def make_qos_tree(parts: Parts) -> None:
    """The groups that hold the pods of each QoS class, with the limits of all pods together; best-effort pods together
    weigh next to nothing. A limit below what is in use by pods that run already is told of, and not set."""
    root = parts.settings.cgroup_root
    for qos in _QOS_CLASSES:
        parts.cgroups.create(qos_cgroup(root, qos))
    try:
        parts.cgroups.apply(qos_cgroup(root, GUARANTEED), dict(parts.settings.pods_limits))
    except OSError as error:
        log.warning("the pods cannot be held to what the node has for them: %s", error)
    parts.cgroups.apply(qos_cgroup(root, BEST_EFFORT), {"cpu": {"shares": cpu_shares(0)}})


def weigh_burstable(parts: Parts, millicores: int) -> None:
    """Give the burstable pods together the weight of what they request."""
    group = qos_cgroup(parts.settings.cgroup_root, BURSTABLE)
    parts.cgroups.apply(group, {"cpu": {"shares": cpu_shares(millicores)}})
