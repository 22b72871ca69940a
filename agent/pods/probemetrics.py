"""How probes ended: /metrics/probes, under the kubelet's names. A container's counts go with it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.exposition import generate_latest

from agent.pods.restart import all_containers
from pyk.api.objects import Object, name_of, namespace_of, uid_of

_REGISTRY = CollectorRegistry()
_LABELS = ("probe_type", "result", "container", "pod", "namespace", "pod_uid")
_PROBES = Counter(
    "prober_probe", "Cumulative number of a liveness, readiness or startup probe for a container by result", _LABELS,
    registry=_REGISTRY,
)  # fmt: skip
RESULTS = ("successful", "failed", "unknown")


def count(word: str, result: str, whose: Mapping[str, str]) -> None:
    """A probe of the type `Liveness`, `Readiness` or `Startup` has ended; `whose` are the other labels."""
    _PROBES.labels(probe_type=word, result=result, **whose).inc()


def labels_of(pod: Object, container: str) -> dict[str, str]:
    """The labels that tell whose a probe is."""
    of_pod = {"pod": name_of(pod), "namespace": namespace_of(pod), "pod_uid": uid_of(pod)}
    return {"container": container, **of_pod}


def forget(pod: Object) -> None:
    """The pod is gone."""
    for container in all_containers(pod):
        whose = labels_of(pod, container["name"])
        for word in ("Liveness", "Readiness", "Startup"):
            for result in RESULTS:
                values = {"probe_type": word, "result": result, **whose}
                with contextlib.suppress(KeyError):  # it has never ended so
                    _PROBES.remove(*(values[name] for name in _LABELS))


def exposition() -> bytes:
    """All counts as text."""
    return generate_latest(_REGISTRY)
