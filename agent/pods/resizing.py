"""A resize put into effect: the limits of a pod's cgroup and of its running containers become what is allocated.

On the way no child is ever allowed more than its parent, which the kernel would refuse: the pod's cgroup grows first
and shrinks last. A memory limit is not set below what is in use, which would end the container. A change that fails is
tried again after a while.
"""

from __future__ import annotations

from agent.pods.observed import RESIZE
from agent.pods.parts import Parts
from agent.pods.record import PodRecord
from agent.pods.resize import ERROR, changed, needs_restart
from agent.pods.resources import (
    container_cgroup_resources,
    limits_of,
    pod_cgroup,
    pod_cgroup_resources,
    pod_limits,
    requests_of,
)
from agent.pods.restart import Container, init_containers, main_containers
from agent.runtime.contract import Phase, RuntimeFailure


class Resizer:
    """Does resizes."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def resize(self, record: PodRecord) -> None:
        """Apply what is allocated to the pod and those of its containers that need no restart for it."""
        pod = record.pod
        cgroup, pids = pod_cgroup(self._parts.settings.cgroup_root, pod), self._parts.settings.pod_pids_limit
        try:
            self._parts.cgroups.apply(cgroup, pod_cgroup_resources(pod, pids, dict(record.cgroup_limits)))
            for container in [*init_containers(pod), *main_containers(pod)]:
                await self._resize_container(record, container, cgroup)
            self._parts.cgroups.apply(cgroup, pod_cgroup_resources(pod, pids))
            self._parts.cgroups.protect(cgroup, record.requests().get("memory", 0))
        except (OSError, RuntimeFailure) as error:
            self._parts.fail(record, RESIZE, ERROR, str(error))
            self._parts.event(record, "Warning", "ResizeError", f"Pod resize error: {error}")
            return
        record.failures.pop(RESIZE, None)
        record.actual_pod, record.cgroup_limits = pod["spec"].get("resources") or {}, pod_limits(pod)

    async def _resize_container(self, record: PodRecord, container: Container, cgroup: str) -> None:
        attempts = record.attempts(container["name"])
        if not attempts or attempts[-1].phase is not Phase.RUNNING:
            return
        identifier, wanted = attempts[-1].id, container.get("resources") or {}
        differing = changed(wanted, record.actual.get(identifier) or {})
        if not differing or needs_restart(container, differing):
            return
        limit = limits_of(container).get("memory")
        in_use = self._parts.cgroups.usage(f"{cgroup}/{identifier}").working_set_bytes
        if limit is not None and "memory" in differing and in_use > limit:
            raise OSError(f"attempting to set container memory limit ({limit}) below current usage ({in_use})")
        await self._parts.runtime.update_container(identifier, container_cgroup_resources(container))
        self._parts.cgroups.protect(f"{cgroup}/{identifier}", requests_of(container).get("memory", 0))
        record.actual[identifier] = wanted
