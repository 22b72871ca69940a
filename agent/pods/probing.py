"""Which probes run: those of the containers that run, from the time when their postStart hook is done."""

from __future__ import annotations

from typing import Any

from agent.pods import probemetrics
from agent.pods.observed import container_statuses
from agent.pods.parts import Parts, target_of
from agent.pods.probes import ContainerProbes, has_probes
from agent.pods.record import PodRecord
from agent.pods.restart import Container, all_containers
from agent.runtime.contract import ContainerState, Phase


def follow_probes(record: PodRecord, parts: Parts) -> None:
    """Have the probes of what runs run, and no others."""
    for container in all_containers(record.pod):
        attempts = record.attempts(container["name"])
        if not attempts or not has_probes(container) or not record.addresses:
            continue
        state = attempts[-1]
        has_begun = record.post_start.get(state.id, "done") == "done"
        if state.phase is Phase.RUNNING and has_begun and state.id not in record.probes:
            _start(record, container, state, parts)
    for identifier in list(record.probes):
        known = record.states.get(identifier)
        if known is None or known.phase is not Phase.RUNNING:
            del record.probes[identifier]
            if (task := record.tasks.get(f"probes {identifier}")) is not None:
                task.cancel()


def _start(record: PodRecord, container: Container, state: ContainerState, parts: Parts) -> None:
    shown = f"pyk://{state.id}"
    entries = (entry for entry in container_statuses(record.pod) if entry.get("containerID") == shown)
    known: dict[str, Any] = next(entries, {})
    whose = probemetrics.labels_of(record.pod, container["name"])
    probes = ContainerProbes(
        target_of(record, container, state.id),
        state.started_at,
        parts.handlers,
        parts.clock,
        was_started=bool(known.get("started")),
        was_ready=bool(known.get("ready")),
        changed=lambda: parts.enqueue(record.uid),
        told=lambda reason, text: parts.event(record, "Warning", reason, text, container["name"]),
        counted=lambda word, result: probemetrics.count(word, result, whose),
    )
    record.probes[state.id] = probes
    parts.spawn(record, f"probes {state.id}", probes.run())
