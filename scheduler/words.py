"""A decision in words: the table of scores, nodes by the rule that refuses them, and what would have to change.

In: what decide.py found out. Out: lines of text. `pyk why` shows them, of the recorded decision (explain.py) or of one
that is decided anew (why.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from pyk.api.quantity import format_millicores
from scheduler.decide import Verdict
from scheduler.filters import NodeResourcesFit, TaintToleration, tolerates
from scheduler.outcome import Diagnosis, ScoreTable
from scheduler.resources import CPU, MEMORY, PODS
from scheduler.rules import Filter
from scheduler.signature import Signature
from scheduler.snapshot import Snapshot

SHOWN_NAMES = 5


def score_table(table: ScoreTable, feasible: int, chosen: str) -> list[str]:
    """The best nodes with their scores, the chosen one marked; then how many more are feasible."""
    lines = [["NODE", "TOTAL", *table.titles]]
    for name, total, values in table.nodes:
        lines.append([f"{name} *" if name == chosen else name, str(total), *(str(value) for value in values)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    texts = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    more = [f"... and {feasible - len(table.nodes)} more"] if feasible > len(table.nodes) else []
    return [*texts, *more]


def refusals(diagnosis: Diagnosis) -> list[str]:
    """The nodes under the rule that refuses them, and its reasons."""
    if diagnosis.at_once:
        return ["", f"No node is looked at: {diagnosis.at_once}"]
    by_rule: dict[str, list[str]] = defaultdict(list)
    for text, nodes in diagnosis.reasons.items():
        by_rule[diagnosis.plugin_of[text]].append(f"  {len(nodes)} {text}: {_names(nodes)}")
    lines = [""] if by_rule else []
    for rule, texts in by_rule.items():
        lines += [f"Refused by {rule}:", *texts]
    return lines


def _names(nodes: Iterable[str]) -> str:
    listed = sorted(nodes)
    more = f" and {len(listed) - SHOWN_NAMES} more" if len(listed) > SHOWN_NAMES else ""
    return ", ".join(listed[:SHOWN_NAMES]) + more


def remedies(snapshot: Snapshot, verdict: Verdict, signature: Signature) -> list[str]:
    """What would have to change, for each node: nodes that need the same together, those that need least first."""
    needed: dict[tuple[str, ...], list[str]] = defaultdict(list)
    lacking: dict[tuple[str, ...], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    rows = np.flatnonzero(snapshot.alive[: snapshot.size])
    obstacles: dict[int, list[str]] = {int(row): [] for row in rows}
    amounts: dict[int, dict[str, int]] = {int(row): {} for row in rows}
    for each in verdict.filters:
        refused = rows[~each.admits(rows)]
        if isinstance(each, NodeResourcesFit):
            for row in refused.tolist():
                for name, amount in signature.requests.items():
                    index = snapshot.resource_index.get(name)
                    free = 0 if index is None else int(snapshot.free[index, row])
                    if free < amount:
                        amounts[row][name] = amount - free
                        obstacles[row].append(name)
        else:
            for row, text in _obstacles(snapshot, each, refused, signature):
                obstacles[row].append(text)
    for row, texts in obstacles.items():
        key = tuple(texts)
        needed[key].append(snapshot.names[row])
        for name, amount in amounts[row].items():
            lacking[key][name].append(amount)
    if not needed:
        return []
    lines = ["", "For it to fit:"]
    for key, nodes in sorted(needed.items(), key=lambda item: (len(item[0]), -len(item[1]), item[0])):
        parts = [_missing(text, lacking[key][text]) if text in lacking[key] else text for text in key]
        verb = "needs" if len(nodes) == 1 else "need"
        lines.append(f"  {len(nodes)} node{'s' * (len(nodes) != 1)} {verb} {' and '.join(parts)}: {_names(nodes)}")
    return lines


def _obstacles(snapshot: Snapshot, rule: Filter, rows: Any, signature: Signature) -> Iterator[tuple[int, str]]:
    """For rows that a rule refuses, what they would need by it."""
    if isinstance(rule, TaintToleration):
        for row in rows.tolist():
            for taint in snapshot.taints.values[snapshot.taints.codes[row]] or ():
                hard = taint.effect in ("NoSchedule", "NoExecute")
                if hard and not tolerates(signature.usage.constraints.tolerations, taint):
                    value = f"={taint.value}" if taint.value else ""
                    yield row, f"a toleration of taint {taint.key}{value}:{taint.effect} (or the taint gone)"
        return
    texts = {
        "NodeUnschedulable": "to be uncordoned",
        "NodeAffinity": f"labels that match {_wanted_labels(signature)}",
        "NodePorts": "the host ports free",
        "PodTopologySpread": "the spread of the pods evened out (topologySpreadConstraints)",
        "InterPodAffinity": "other neighbours (pod affinity or anti-affinity)",
    }
    for reason, refused in rule.reasons(rows):
        for row in refused.tolist():
            yield row, texts.get(rule.name, f"this solved: {reason}")


def _wanted_labels(signature: Signature) -> str:
    constraints = signature.usage.constraints
    parts = [f"{key}={value}" for key, value in constraints.node_selector]
    terms = [
        " and ".join(f"{each.key} {each.operator} {','.join(each.values)}".rstrip() for each in term)
        for term in constraints.required_terms or ()
    ]
    return ", ".join([*parts, *([" or ".join(terms)] if terms else [])])


def _missing(name: str, amounts: list[int]) -> str:
    if name == PODS:
        return "room for one pod more"
    least, most = _amount(name, min(amounts)), _amount(name, max(amounts))
    return f"{least} more {name}" if least == most else f"{least} to {most} more {name}"


def _amount(name: str, amount: int) -> str:
    if name == CPU:
        return format_millicores(amount)
    if name in (MEMORY, "ephemeral-storage") or name.startswith("hugepages-"):
        for unit, size in (("Gi", 2**30), ("Mi", 2**20), ("Ki", 2**10)):
            if amount >= size:
                return f"{-(-amount // size)}{unit}"
    return str(amount)
