"""`pyk top`: what nodes and pods use at present, as their cgroups report it."""

from __future__ import annotations

import argparse
from typing import Any

from pyk.api.kinds import NODE, POD
from pyk.api.objects import Object, labels_of, name_of
from pyk.api.quantity import millicores, whole
from pyk.api.selectors import matches, parse_label_selector
from pyk.api.status import ApiError
from pyk.cli.printers import TablePrinter
from pyk.cli.session import Session, add_connection_options
from pyk.errors import UserError


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser("top", help="show what nodes or pods use at present")
    parser.add_argument("what", choices=["node", "nodes", "no", "pod", "pods", "po"], metavar="nodes|pods")
    parser.add_argument("name", nargs="?", default="", metavar="NAME")
    parser.add_argument("-l", "--selector", default="", metavar="LABELS", help="only objects with these labels")
    parser.add_argument("-A", "--all-namespaces", action="store_true", help="pods of all namespaces")
    parser.add_argument("--containers", action="store_true", help="each container of the pods")
    parser.add_argument("--sort-by", choices=["cpu", "memory"], default="", help="largest first")
    parser.add_argument("--no-headers", action="store_true", help="leave the header line out")
    add_connection_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    session = Session(arguments)
    nodes = session.client.list(NODE).get("items") or []
    if arguments.what.startswith("n"):
        _nodes(session, nodes)
    else:
        _pods(session, nodes)
    return 0


def _summary(session: Session, node: Object) -> Object | None:
    """The node's stats summary; None when the node does not answer."""
    try:
        found: Object = session.client.json("GET", NODE.path("", name_of(node), "proxy") + "/stats/summary")
    except ApiError:
        return None
    return found


Usage = tuple[int, int]
"""Millicores and bytes."""


def usage_of(stats: Object) -> Usage:
    """What one entry of the summary uses: millicores (rounded up) and bytes of working set."""
    nano = (stats.get("cpu") or {}).get("usageNanoCores") or 0
    return -(-int(nano) // 1_000_000), int((stats.get("memory") or {}).get("workingSetBytes") or 0)


def _amounts(usage: Usage) -> list[str]:
    return [f"{usage[0]}m", f"{usage[1] // 2**20}Mi"]


def _order(arguments: argparse.Namespace, rows: list[tuple[Usage, list[str]]]) -> list[list[str]]:
    if arguments.sort_by:
        column = 0 if arguments.sort_by == "cpu" else 1
        rows = sorted(rows, key=lambda row: -row[0][column])
    return [texts for _, texts in rows]


def _nodes(session: Session, nodes: list[Object]) -> None:
    arguments = session.arguments
    selector = parse_label_selector(arguments.selector)
    rows = []
    for node in nodes:
        if (arguments.name and name_of(node) != arguments.name) or not matches(selector, labels_of(node)):
            continue
        summary = _summary(session, node)
        if summary is None:
            rows.append(((0, 0), [name_of(node), *["<unknown>"] * 4]))
            continue
        usage = usage_of(summary["node"])
        allocatable = (node.get("status") or {}).get("allocatable") or {}
        cpu, memory = _amounts(usage)
        shares = (
            _percent(usage[0], millicores(allocatable.get("cpu", "0"))),
            _percent(usage[1], whole(allocatable.get("memory", "0"))),
        )
        rows.append((usage, [name_of(node), cpu, shares[0], memory, shares[1]]))
    if arguments.name and not rows:
        raise UserError(f"there is no node {arguments.name!r}")
    header = ("NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)")
    TablePrinter(headers=not arguments.no_headers).print_rows(header, _order(arguments, rows))


def _percent(amount: int, of: int) -> str:
    return f"{amount * 100 // of}%" if of else "<unknown>"


def _pods(session: Session, nodes: list[Object]) -> None:
    arguments = session.arguments
    listed = session.client.list(POD, session.namespace, label_selector=arguments.selector).get("items") or []
    wanted = {pod["metadata"]["uid"] for pod in listed if arguments.name in ("", name_of(pod))}
    if arguments.name and not wanted:
        raise UserError(f"there is no pod {arguments.name!r} in namespace {session.namespace!r}")
    rows: list[tuple[Usage, list[str]]] = []
    hosts = {(pod["spec"].get("nodeName") or "") for pod in listed}
    for node in nodes:
        summary = _summary(session, node) if name_of(node) in hosts else None
        for stats in (summary or {}).get("pods") or ():
            if stats["podRef"]["uid"] in wanted:
                rows += _pod_rows(arguments, stats)
    header: tuple[str, ...] = ("NAME", "CPU(cores)", "MEMORY(bytes)")
    header = ("POD", *header) if arguments.containers else header
    header = ("NAMESPACE", *header) if arguments.all_namespaces else header
    TablePrinter(headers=not arguments.no_headers).print_rows(header, _order(arguments, rows))


def _pod_rows(arguments: argparse.Namespace, stats: Object) -> list[tuple[Usage, list[str]]]:
    namespace = [stats["podRef"]["namespace"]] if arguments.all_namespaces else []
    name = stats["podRef"]["name"]
    if not arguments.containers:
        return [(usage_of(stats), [*namespace, name, *_amounts(usage_of(stats))])]
    return [
        (usage_of(one), [*namespace, name, one["name"], *_amounts(usage_of(one))])
        for one in stats.get("containers") or ()
    ]
