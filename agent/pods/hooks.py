"""postStart hooks: which are due, and running them, at least once each.

A hook that has come to its end leaves a file with the pod; so an agent that takes over a running container knows
whether its hook is still to be run. One that was under way when the agent was killed runs again, as Kubernetes has
it: "the hook might be resent after the kubelet comes back up".
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.pods.container_status import HOOK_FAILED
from agent.pods.observed import CONTAINER_NAME
from agent.pods.parts import Parts, container_named, find_container, target_of
from agent.pods.record import PodRecord
from agent.runtime.contract import Phase

log = logging.getLogger(__name__)

DUE, RUNNING, DONE = "due", "running", "done"


def hook_file(pod_directory: Path, container_id: str) -> Path:
    """What says that the hook of this attempt at a container is done."""
    return pod_directory / "hooks" / container_id


def post_start_of(container: Mapping[str, Any]) -> Mapping[str, Any] | None:
    hook: Mapping[str, Any] | None = (container.get("lifecycle") or {}).get("postStart")
    return hook


def follow_hooks(record: PodRecord, parts: Parts) -> None:
    """Note the hooks of running containers that nothing is known of: due, or done before this agent came."""
    for state in record.states.values():
        if state.phase is not Phase.RUNNING or state.id in record.post_start:
            continue
        container = find_container(record.pod, state.labels.get(CONTAINER_NAME, ""))
        if container is not None and post_start_of(container) is not None:
            is_done = hook_file(parts.volumes.pod_directory(record.uid), state.id).exists()
            record.post_start[state.id] = DONE if is_done else DUE


def begin_post_start(record: PodRecord, parts: Parts, name: str, container_id: str) -> None:
    """Run a container's postStart hook, beside everything else."""
    record.post_start[container_id] = RUNNING
    parts.spawn(record, f"postStart {container_id}", _post_start(record, parts, name, container_id))


async def _post_start(record: PodRecord, parts: Parts, name: str, container_id: str) -> None:
    container = container_named(record.pod, name)
    hook = post_start_of(container)
    assert hook is not None
    outcome = await parts.handlers.run_hook(hook, target_of(record, container, container_id), None)
    if container_id not in record.states:
        return
    if outcome.ok:
        record.post_start[container_id] = DONE
        file = hook_file(parts.volumes.pod_directory(record.uid), container_id)
        try:
            file.parent.mkdir(exist_ok=True)
            file.touch()
        except OSError as error:
            log.warning("the postStart hook of %s is done, which cannot be noted: %s", name, error)
        return
    record.post_start[container_id] = f"{HOOK_FAILED}{outcome.output}"
    # What the hook said stays out of the event: who may read events need not know the secrets of the pod.
    parts.event(record, "Warning", "FailedPostStartHook", "PostStartHook failed", name)
