"""What an agent does when it comes (back) to a node: find what runs, take away what belongs to nobody.

Everything is read from the runtime: the labels of sandboxes and containers say which pod they are of, so adopting
needs no file of the agent's own. What is known of no pod, neither to the API nor to the runtime, is removed:
volumes and their mounts, logs, cgroups, network links.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from agent.network.contract import NetworkFailure
from agent.pods.observed import CONTAINER_NAME, GRACE, POD_NAME, POD_NAMESPACE, PRE_STOP
from agent.pods.parts import Parts
from agent.pods.record import PodRecord
from agent.pods.resources import BEST_EFFORT, BURSTABLE, GUARANTEED, cpu_shares, qos_cgroup
from agent.runtime.contract import ContainerState, RuntimeFailure
from agent.volumes.mounts import remove_tree
from pyk.api.objects import Object

log = logging.getLogger(__name__)

FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 0.02, 2.0
LONGEST_SWEEP_PAUSE_SECONDS = 60.0

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
        hook = state.labels.get(PRE_STOP)
        lifecycle = {"lifecycle": {"preStop": json.loads(hook)}} if hook else {}
        pod["spec"]["containers"].append({"name": name, **lifecycle})
    if (grace := state.labels.get(GRACE)) is not None:
        pod["spec"]["terminationGracePeriodSeconds"] = int(grace)


async def restore_network(alive: Collection[str], parts: Parts) -> None:
    """Take away the links and addresses of pods that are not `alive`; tried until it is done, for no pod is to get an
    address that only seems free."""
    pause = FIRST_RETRY_SECONDS
    while True:
        try:
            await parts.network.restore(alive)
        except (NetworkFailure, OSError) as error:
            log.warning("what pods of before left in the network cannot be removed: %s; again in %.1f s", error, pause)
            await parts.clock.sleep(pause)
            pause = min(2 * pause, LONGEST_RETRY_SECONDS)
        else:
            return


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something of a pod that is known to nobody any more, and how to remove it."""

    what: str
    remove: Callable[[], Awaitable[None]]


async def find_leftovers(known: Collection[str], parts: Parts) -> list[Leftover]:
    """What is on the node but of no pod in `known` (UIDs): volumes, logs, cgroups. Ask before a new pod is admitted."""
    volumes = [uid for uid in await parts.volumes.uids() if uid not in known]
    logs = await asyncio.to_thread(_unknown_logs, parts.settings.log_root, known)
    groups = await asyncio.to_thread(_unknown_cgroups, parts, known)
    return [
        *(Leftover(f"the volumes of pod {uid}", partial(parts.volumes.tear_down, uid)) for uid in volumes),
        *(Leftover(f"the logs {path}", partial(asyncio.to_thread, remove_tree, path)) for path in logs),
        *(Leftover(f"the cgroup {one}", partial(asyncio.to_thread, parts.cgroups.remove, one)) for one in groups),
    ]


async def remove_leftovers(leftovers: list[Leftover], parts: Parts) -> None:
    """Remove them, and try for as long as it takes what cannot be removed now."""
    pause = FIRST_RETRY_SECONDS
    while leftovers:
        remaining = []
        for one in leftovers:
            try:
                await one.remove()
            except OSError as error:
                log.log(logging.INFO if pause > FIRST_RETRY_SECONDS else logging.WARNING, "%s: %s", one.what, error)
                remaining.append(one)
        leftovers = remaining
        if leftovers:
            await parts.clock.sleep(pause)
            pause = min(2 * pause, LONGEST_SWEEP_PAUSE_SECONDS)
    try:
        await parts.volumes.unmount_unused()
    except OSError as error:  # it is used again, or stays for the next agent
        log.info("the memory for secrets stays mounted: %s", error)


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


def weigh(parts: Parts, burstable_millicores: int, burstable_memory: int, memory: int) -> None:
    """Give the burstable pods together the weight of what they request, and them and all pods together the protection
    of the memory that they request."""
    root = parts.settings.cgroup_root
    group = qos_cgroup(root, BURSTABLE)
    parts.cgroups.apply(group, {"cpu": {"shares": cpu_shares(burstable_millicores)}})
    parts.cgroups.protect(group, burstable_memory)
    parts.cgroups.protect(qos_cgroup(root, GUARANTEED), memory)
