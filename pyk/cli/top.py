"""`pyk top`: what nodes and pods use at present, and with `--recommend` what the containers should request."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from pyk.api.kinds import NODE, NODE_METRICS, POD, POD_METRICS, REPLICA_SET, Kind
from pyk.api.objects import Object, controller_of, labels_of, name_of, namespace_of
from pyk.api.quantity import millicores, whole
from pyk.api.selectors import matches, parse_label_selector
from pyk.cli.printers import TablePrinter
from pyk.cli.session import Session, add_connection_options
from pyk.errors import UserError
from pyk.recommend import CPU, MEMORY, Histogram, recommend

SAMPLE_SECONDS = 2.0


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser("top", help="show what nodes or pods use at present")
    parser.add_argument("what", choices=["node", "nodes", "no", "pod", "pods", "po"], metavar="nodes|pods")
    parser.add_argument("name", nargs="?", default="", metavar="NAME")
    parser.add_argument("-l", "--selector", default="", metavar="LABELS", help="only objects with these labels")
    parser.add_argument("-A", "--all-namespaces", action="store_true", help="pods of all namespaces")
    parser.add_argument("--containers", action="store_true", help="each container of the pods")
    parser.add_argument("--recommend", action="store_true", help="watch for a while, and say what to request")
    parser.add_argument(
        "--for", type=float, default=20.0, metavar="SECONDS", dest="seconds", help="how long to watch (20)"
    )
    parser.add_argument("--sort-by", choices=["cpu", "memory"], default="", help="largest first")
    parser.add_argument("--no-headers", action="store_true", help="leave the header line out")
    add_connection_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    session = Session(arguments)
    if arguments.what.startswith("n"):
        if arguments.recommend:
            raise UserError("--recommend is for pods")
        _nodes(session)
    elif arguments.recommend:
        _recommend(session)
    else:
        _pods(session)
    return 0


Usage = tuple[int, int]
"""Millicores and bytes."""


def usage_of(*usages: Object) -> Usage:
    """What some parts use in all: millicores (rounded up) and bytes."""
    return (
        sum(millicores(usage.get("cpu", "0")) for usage in usages),
        sum(whole(usage.get("memory", "0")) for usage in usages),
    )


def _metrics(session: Session, kind: Kind, namespace: str = "") -> list[Object]:
    params = {"labelSelector": session.arguments.selector} if session.arguments.selector else {}
    listed = session.client.json("GET", kind.path(namespace), params=params)
    return list(listed.get("items") or [])


def _amounts(usage: Usage) -> list[str]:
    return [f"{usage[0]}m", f"{usage[1] // 2**20}Mi"]


def _order(arguments: argparse.Namespace, rows: list[tuple[Usage, list[str]]]) -> list[list[str]]:
    if arguments.sort_by:
        column = 0 if arguments.sort_by == "cpu" else 1
        rows = sorted(rows, key=lambda row: -row[0][column])
    return [texts for _, texts in rows]


def _nodes(session: Session) -> None:
    arguments = session.arguments
    selector = parse_label_selector(arguments.selector)
    measured = {name_of(each): each["usage"] for each in _metrics(session, NODE_METRICS)}
    rows = []
    for node in session.client.list(NODE).get("items") or []:
        if (arguments.name and name_of(node) != arguments.name) or not matches(selector, labels_of(node)):
            continue
        if name_of(node) not in measured:
            rows.append(((0, 0), [name_of(node), *["<unknown>"] * 4]))
            continue
        usage = usage_of(measured[name_of(node)])
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


def _pods(session: Session) -> None:
    arguments = session.arguments
    if arguments.name:
        session.client.get(POD, arguments.name, session.namespace)  # that it is not there is told in usual words
    rows: list[tuple[Usage, list[str]]] = []
    for pod in _metrics(session, POD_METRICS, session.namespace):
        if arguments.name in ("", name_of(pod)):
            rows += _pod_rows(arguments, pod)
    header: tuple[str, ...] = ("NAME", "CPU(cores)", "MEMORY(bytes)")
    header = ("POD", *header) if arguments.containers else header
    header = ("NAMESPACE", *header) if arguments.all_namespaces else header
    TablePrinter(headers=not arguments.no_headers).print_rows(header, _order(arguments, rows))


def _pod_rows(arguments: argparse.Namespace, pod: Object) -> list[tuple[Usage, list[str]]]:
    namespace = [namespace_of(pod)] if arguments.all_namespaces else []
    if not arguments.containers:
        usage = usage_of(*(container["usage"] for container in pod["containers"]))
        return [(usage, [*namespace, name_of(pod), *_amounts(usage)])]
    rows = []
    for container in pod["containers"]:
        usage = usage_of(container["usage"])
        rows.append((usage, [*namespace, name_of(pod), container["name"], *_amounts(usage)]))
    return rows


Place = tuple[str, str, str]
"""A namespace, a workload in it (`Deployment/web`), and a container of its pods."""


class Observation:
    """What the containers of some workloads were seen to use; pods of one workload count together."""

    def __init__(self, pods: list[Object], sets: list[Object]) -> None:
        owners = {each["metadata"]["uid"]: controller_of(each) for each in sets}
        self._places: dict[tuple[str, str, str], Place] = {}
        self._shares: dict[Place, int] = {}
        self.requests: dict[Place, Object] = {}
        self.cpu: dict[Place, Histogram] = {}
        self.memory: dict[Place, Histogram] = {}
        for pod in pods:
            owner = controller_of(pod)
            above = owners.get(owner["uid"]) if owner is not None else None
            owner = above or owner or {"kind": POD.kind, "name": name_of(pod)}
            for container in pod["spec"]["containers"]:
                place = (namespace_of(pod), f"{owner['kind']}/{owner['name']}", container["name"])
                self._places[namespace_of(pod), name_of(pod), container["name"]] = place
                self._shares[place] = len(pod["spec"]["containers"])
                self.requests[place] = (container.get("resources") or {}).get("requests") or {}

    def add(self, measured: list[Object], at: float) -> None:
        """Count one reading of PodMetrics, at a moment in seconds."""
        for pod in measured:
            for container in pod["containers"]:
                place = self._places.get((namespace_of(pod), name_of(pod), container["name"]))
                if place is not None:
                    cpu, memory = usage_of(container["usage"])
                    self.cpu.setdefault(place, Histogram(CPU)).add(cpu / 1000, at)
                    self.memory.setdefault(place, Histogram(MEMORY)).add(memory, at)

    def rows(self) -> Iterator[list[str]]:
        """Two rows a container: cpu and memory, each with what is requested and what is recommended."""
        for place in sorted(self.cpu):
            requests = self.requests[place]
            for name, histogram in (("cpu", self.cpu[place]), ("memory", self.memory[place])):
                advice = recommend(histogram, self._shares[place])
                write = cpu_text if name == "cpu" else memory_text
                texts = [write(amount) for amount in (advice.lower, advice.target, advice.upper)]
                yield [*place, name, str(requests.get(name, "<none>")), *texts]


def cpu_text(cores: float) -> str:
    return f"{-(-cores * 1000 // 1):.0f}m"


def memory_text(size: float) -> str:
    return f"{-(-size / 2**20 // 1):.0f}Mi"


def _recommend(session: Session) -> None:
    import asyncio

    from pyk.reconcile.clock import RealClock

    arguments, clock = session.arguments, RealClock()
    pods = session.client.list(POD, session.namespace, label_selector=arguments.selector).get("items") or []
    chosen = [pod for pod in pods if arguments.name in ("", name_of(pod))]
    if not chosen:
        raise UserError("there are no such pods")
    seen = Observation(chosen, session.client.list(REPLICA_SET, session.namespace).get("items") or [])

    async def watch() -> None:
        end = clock.monotonic() + arguments.seconds
        while True:
            seen.add(_metrics(session, POD_METRICS, session.namespace), clock.monotonic())
            if clock.monotonic() >= end:
                return
            await clock.sleep(min(SAMPLE_SECONDS, max(0.0, end - clock.monotonic())))

    asyncio.run(watch())
    header: tuple[str, ...] = ("WORKLOAD", "CONTAINER", "RESOURCE", "REQUEST", "LOWER", "TARGET", "UPPER")
    rows = list(seen.rows())
    if arguments.all_namespaces:
        header = ("NAMESPACE", *header)
    else:
        rows = [row[1:] for row in rows]
    TablePrinter(headers=not arguments.no_headers).print_rows(header, rows)
