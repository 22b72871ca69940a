"""Decisions in words: the message of the `FailedScheduling` event and condition, and the last decisions for people.

The message has Kubernetes' form, one entry for each reason with the number of nodes, sorted as text:
`0/3 nodes are available: 1 node(s) had untolerated taint {k: v}, 2 Insufficient cpu.`
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Any

from pyk.reconcile.clock import timestamp
from scheduler import words
from scheduler.outcome import Decision, Diagnosis

REMEMBERED_DECISIONS = 512
REMEMBERED_SCORES = 10
"""Nodes whose scores are kept of a decision: the best ones."""
NO_NODES = "no nodes available to schedule pods"


def unschedulable_message(diagnosis: Diagnosis) -> str:
    """Why no node would take the pod, in one line."""
    if diagnosis.nodes == 0:
        return NO_NODES
    if diagnosis.at_once:
        return f"0/{diagnosis.nodes} nodes are available: {diagnosis.at_once}."
    counted = sorted(f"{len(nodes)} {text}" for text, nodes in diagnosis.reasons.items())
    return f"0/{diagnosis.nodes} nodes are available: {', '.join(counted)}."


def preemption_message(why: str | Counter[str], nodes: int = 0) -> str:
    """What follows the message when preemption does not help: a reason, or one for each of so many nodes."""
    if isinstance(why, str):
        return f" preemption: {why}"
    counted = sorted(f"{number} {text}" for text, number in why.items() if number)
    return f" preemption: 0/{nodes} nodes are available: {', '.join(counted)}."


def scheduled_message(pod: str, node: str) -> str:
    """Where the pod went, in one line."""
    return f"Successfully assigned {pod} to {node}"


class Decisions:
    """The latest decision for each pod, of the last `REMEMBERED_DECISIONS` pods decided about; for `pyk why`."""

    def __init__(self) -> None:
        self._decisions: OrderedDict[str, tuple[float, Decision, str]] = OrderedDict()

    def remember(self, decision: Decision, at: float, message: str = "") -> None:
        """Keep the decision, taken `at` (seconds since the epoch), and what was said of it."""
        self._decisions[decision.pod] = (at, decision, message)
        self._decisions.move_to_end(decision.pod)
        if len(self._decisions) > REMEMBERED_DECISIONS:
            self._decisions.popitem(last=False)

    def forget(self, pod: str) -> None:
        """The pod is gone."""
        self._decisions.pop(pod, None)

    def document(self, pod: str) -> dict[str, Any] | None:
        """The latest decision for the pod as JSON, with the nodes under each reason; None when it is not known.

        `text` is what `pyk why` shows of it, in lines.
        """
        found = self._decisions.get(pod)
        if found is None:
            return None
        at, decision, message = found
        diagnosis = decision.diagnosis
        document: dict[str, Any] = {"pod": pod, "time": timestamp(at)}
        if diagnosis is None:
            document |= {"node": decision.node, "score": decision.score, "feasibleNodes": decision.feasible}
            document["message"] = scheduled_message(pod, str(decision.node))
            return document | {"text": _placed_text(decision, timestamp(at))}
        return document | {
            "node": None,
            "message": message or unschedulable_message(diagnosis),
            "nodes": diagnosis.nodes,
            "reasons": {text: list(nodes) for text, nodes in diagnosis.reasons.items()},
            "refusedBy": sorted(diagnosis.refused_by),
            "text": [f"At {timestamp(at)} no node would do: {message}", *words.refusals(diagnosis)],
        }


def _placed_text(decision: Decision, at: str) -> list[str]:
    node = str(decision.node)
    nodes = "1 node" if decision.feasible == 1 else f"{decision.feasible} nodes"
    head = f"At {at} {decision.pod} was placed on {node}; {nodes} would have done, its score was {decision.score}."
    if decision.table is None:
        return [head, "The other scores were not recorded: too many pods waited behind it."]
    return [head, "", *words.score_table(decision.table, decision.feasible, node)]
