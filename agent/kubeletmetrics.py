"""What /metrics says of a node's pods and volumes, under the kubelet's names. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agent.exposition import Families
from agent.pods.evicting import ActivePod

_VOLUME = {
    "available_bytes": "Number of available bytes in the volume",
    "capacity_bytes": "Capacity in bytes of the volume",
    "used_bytes": "Number of used bytes in the volume",
    "inodes": "Maximum number of inodes in the volume",
    "inodes_free": "Number of free inodes in the volume",
    "inodes_used": "Number of used inodes in the volume",
}

ClaimDisk = tuple[str, str, Mapping[str, int]]
"""Namespace and name of a claim, and the numbers of its file system by the end of their metric's name."""


def kubelet_metrics(node_name: str, pods: Sequence[ActivePod], claims: Sequence[ClaimDisk]) -> bytes:
    """The numbers of running pods and containers, and the disks behind claims."""
    families = Families()
    families.add("kubelet_node_name", "gauge", "The node's name. The count is always 1.", {"node": node_name}, 1)
    families.add("kubelet_running_pods", "gauge", "Number of pods that have a running pod sandbox", {}, len(pods))
    states = {"created": 0, "exited": 0, "running": 0}
    for pod in pods:
        states["running"] += len(pod.running)
        states["exited"] += len(pod.containers) - len(pod.running)
    for state, count in states.items():
        labels = {"container_state": state}
        families.add("kubelet_running_containers", "gauge", "Number of containers by their state", labels, count)
    for namespace, claim, numbers in claims:
        labels = {"namespace": namespace, "persistentvolumeclaim": claim}
        for name, told in _VOLUME.items():
            families.add(f"kubelet_volume_stats_{name}", "gauge", told, labels, numbers[name])
    return families.text()
