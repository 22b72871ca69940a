"""`pyk why`: why a pod is where it is, or nowhere, and what would have to change; and what would happen if.

    python -m scheduler.why < QUESTION

The question is a JSON document: `objects`, all that the API server lists of what rules read; `pod` (a key) or
`manifests` (objects that are not applied); `changes` of nodes, as `[option, text]`; `all` to show every node; `config`,
a configuration file. Nothing is asked of the cluster here and nothing is written to it: the same code that schedules
decides about a snapshot made of those objects. For a pod that has a node, pods that got theirs later are left out.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from pyk.api.labelkeys import merge_label_keys
from pyk.api.objects import Object, condition_of, key_of, name_of, namespace_of
from pyk.api.quantity import BadQuantity
from pyk.errors import UserError
from scheduler.config import Configuration, load
from scheduler.decide import Verdict
from scheduler.explain import preemption_message, unschedulable_message
from scheduler.preempt import Outcome
from scheduler.signature import Signature
from scheduler.whatif import Model, World
from scheduler.words import refusals, remedies, score_table

SHOWN_NODES = 10


def answer(question: dict[str, Any]) -> str:
    """The text that answers the question. Raises `UserError`."""
    path = question.get("config")
    configuration = load(Path(path)) if path else Configuration()
    world = World.of(question["objects"])
    for what, text in question.get("changes") or ():
        world.change(what, text)
    is_imagined = bool(question.get("changes"))
    if question.get("pod"):
        return "\n".join(_about_pod(world, configuration, question["pod"], bool(question.get("all")), is_imagined))
    return "\n".join(_what_if(world, configuration, question.get("manifests") or [], bool(question.get("all"))))


# One pod


def _about_pod(world: World, configuration: Configuration, key: str, show_all: bool, is_imagined: bool) -> list[str]:
    pod = world.pods.get(key) or next((each for each in world.displaced if key_of(each) == key), None)
    if pod is None:
        raise UserError(f"there is no pod {key}")
    node = (pod.get("spec") or {}).get("nodeName") or ""
    if gates := (pod.get("spec") or {}).get("schedulingGates"):
        return [f"{key} waits for its scheduling gates: {', '.join(gate['name'] for gate in gates)}"]
    if node and not is_imagined:
        _forget_later(world, pod)
    model = Model(world, configuration.profiles, leaving_out=key)
    model.snapshot.remove("\0" + key)
    condition = condition_of(pod, "PodScheduled") or {}
    lines = []
    if node:
        lines.append(f"{key} was placed on {node} at {condition.get('lastTransitionTime') or 'an unknown time'}.")
    elif condition.get("message"):
        lines += [f"{key} has no node. The scheduler said: {condition['message']}"]
    else:
        lines.append(f"{key} has no node, and the scheduler has not said anything of it yet.")
    if nominated := (pod.get("status") or {}).get("nominatedNodeName"):
        lines.append(f"It waits for others to end on {nominated}, for which it is nominated.")
    return [*lines, *_verdict_text(model, pod, show_all, chosen=node, is_imagined=is_imagined)]


def _forget_later(world: World, pod: Object) -> None:
    """Leave out the pods that were placed after this one."""
    own = (condition_of(pod, "PodScheduled") or {}).get("lastTransitionTime") or ""
    for key, other in list(world.pods.items()):
        later = (condition_of(other, "PodScheduled") or {}).get("lastTransitionTime") or ""
        if own and later > own:
            del world.pods[key]


def _verdict_text(model: Model, pod: Object, show_all: bool, chosen: str, is_imagined: bool) -> list[str]:
    try:
        signature = model.signature(pod)
    except BadQuantity as error:
        raise UserError(f"the pod's amounts cannot be read: {error}") from error
    verdict = model.decider(pod).verdict(signature)
    total = len(model.snapshot)
    feasible = int(np.count_nonzero(verdict.feasible))
    lines = [""]
    if is_imagined:
        lines.append(f"With these changes {feasible} of {total} nodes would do.")
    elif chosen:
        lines.append(f"Of {total} nodes {feasible} would do, as things were then:")
    else:
        lines.append(f"Of {total} nodes {feasible} would do now.")
    if feasible:
        table = verdict.table(feasible if show_all else SHOWN_NODES, model.snapshot.rows.get(chosen))
        lines += score_table(table, feasible, chosen)
    lines += refusals(verdict.diagnosis())
    if not feasible:
        lines += remedies(model.snapshot, verdict, signature)
        lines += _preemption(model, pod, verdict, signature)
    return lines


def _preemption(model: Model, pod: Object, verdict: Verdict, signature: Signature) -> list[str]:
    diagnosis = verdict.diagnosis()
    if not diagnosis.nodes:
        return []
    if (pod.get("spec") or {}).get("preemptionPolicy") == "Never":
        return ["", "Others do not make way for it: its preemptionPolicy is Never."]
    decider = model.decider(pod)
    outcome: Outcome = model.preemption.find(decider, signature, model.priority(pod), diagnosis, random.Random(0))
    if outcome.candidate is None:
        return ["", f"Others do not make way for it:{preemption_message(outcome.reasons, diagnosis.nodes)}"]
    victims = ", ".join(victim.pod for victim in outcome.candidate.victims) or "nobody"
    broken = f" (against {outcome.candidate.violations} disruption budgets)" if outcome.candidate.violations else ""
    return ["", f"For its priority {victims} would have to end on {outcome.candidate.node}{broken}."]


# What if


def _what_if(world: World, configuration: Configuration, manifests: list[Object], show_all: bool) -> list[str]:
    groups: list[tuple[str, list[Object]]] = []
    for obj in manifests:
        if obj["kind"] == "Node":
            world.nodes[name_of(obj)] = obj
        else:
            groups.append((f"{obj['kind'].lower()}/{name_of(obj)}", list(_pods_of(obj))))
    waiting = [pod for pod in world.pods.values() if _is_waiting(pod)]
    if world.displaced:
        groups.insert(0, ("pods of nodes that are drained or gone", world.displaced))
    if waiting and not manifests:
        groups.append(("pods that wait for a node", waiting))
    if not groups:
        return ["No pod would be placed anew."]
    model = Model(world, configuration.profiles)
    lines: list[str] = []
    for title, pods in groups:
        lines += [*([""] if lines else []), *_place_all(model, title, pods, show_all)]
    return lines


def _is_waiting(pod: Object) -> bool:
    spec = pod.get("spec") or {}
    return not spec.get("nodeName") and not spec.get("schedulingGates") and not pod["metadata"].get("deletionTimestamp")


def _pods_of(obj: Object) -> Iterator[Object]:
    """The pods that an object stands for, as they would be stored: itself, or as many of its template as it wants."""
    if obj["kind"] == "Pod":
        yield _stored(obj)
        return
    spec = obj.get("spec") or {}
    if obj["kind"] == "CronJob":
        spec = (spec.get("jobTemplate") or {}).get("spec") or {}
    template = spec.get("template")
    if not template:
        raise UserError(f"a {obj['kind']} has no pods to place; there may be pods, workloads and nodes")
    number = spec.get("replicas", spec.get("parallelism", 1))
    for index in range(int(1 if number is None else number)):
        metadata = {
            **(template.get("metadata") or {}),
            "name": f"{name_of(obj)}-{index}",
            "namespace": namespace_of(obj),
        }
        yield _stored({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template.get("spec") or {}})


def _stored(pod: Object) -> Object:
    pod = {**pod, "spec": dict(pod.get("spec") or {})}
    merge_label_keys(pod)
    return pod


def _place_all(model: Model, title: str, pods: list[Object], show_all: bool) -> list[str]:
    rng = random.Random(0)
    placed: list[tuple[str, str]] = []
    refused: list[tuple[Object, str]] = []
    for pod in sorted(pods, key=lambda each: -model.priority(each)):
        key = f"{key_of(pod)}"
        try:
            signature = model.signature(pod)
        except BadQuantity as error:
            raise UserError(f"{title}: the amounts cannot be read: {error}") from error
        decision = model.decider(pod).decide_one(f"?{key}", signature, rng, model.priority(pod))
        if decision.node is not None:
            placed.append((key, decision.node))
        elif decision.diagnosis is not None:
            refused.append((pod, unschedulable_message(decision.diagnosis)))
    on_node = Counter(node for _, node in placed)
    lines = [f"{title}: {len(placed)} of {len(pods)} pods would get a node"]
    if show_all:
        lines += [f"  {key} -> {node}" for key, node in placed]
    elif on_node:
        most = on_node.most_common(SHOWN_NODES)
        more = f" and {len(on_node) - len(most)} nodes more" if len(on_node) > len(most) else ""
        lines.append("  " + ", ".join(f"{number} on {node}" for node, number in most) + more)
    for message, number in Counter(message for _, message in refused).items():
        lines.append(f"  {number} would wait: {message}")
    if refused:
        pod = refused[0][0]
        signature = model.signature(pod)
        verdict = model.decider(pod).verdict(signature)
        for text in (*remedies(model.snapshot, verdict, signature), *_preemption(model, pod, verdict, signature)):
            lines.append(f"  {text}".rstrip())
    return lines


def main() -> int:
    """Answer the question on standard input: the exit status."""
    try:
        print(answer(orjson.loads(sys.stdin.buffer.read())))
    except UserError as error:
        print(f"pyk: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
