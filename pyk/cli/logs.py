"""`pyk logs`: what containers print, of one pod or of several at once."""

from __future__ import annotations

import argparse
import queue
import re
import sys
import threading
from typing import Any

from pyk.api.kinds import POD
from pyk.api.objects import Object, name_of
from pyk.api.status import ApiError
from pyk.cli.pods import container_names, default_container, find_pods
from pyk.cli.session import Session, add_connection_options
from pyk.client.blocking import BlockingClient
from pyk.errors import UserError

COLOURS = (36, 32, 33, 35, 34, 31)
LINES_WAITING = 1000


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser("logs", help="show what containers print")
    parser.add_argument("pod", nargs="?", metavar="POD", help="web, pod/web or deployment/web")
    parser.add_argument("container_word", nargs="?", metavar="CONTAINER", help="one container of the pod")
    parser.add_argument("-c", "--container", default="", metavar="NAME", help="one container of the pod")
    parser.add_argument("-f", "--follow", action="store_true", help="go on as more is printed")
    parser.add_argument("-p", "--previous", action="store_true", help="of the container before its last restart")
    parser.add_argument("-l", "--selector", default="", metavar="LABELS", help="of all pods with these labels")
    parser.add_argument("--tail", type=int, default=-1, metavar="N", help="the last N lines only")
    parser.add_argument("--since", default="", metavar="DURATION", help="the last 30s, 5m, 2h ... only")
    parser.add_argument("--since-time", default="", metavar="TIME", help="since an RFC 3339 time only")
    parser.add_argument("--limit-bytes", type=int, default=0, metavar="N", help="at most so many bytes")
    parser.add_argument("--timestamps", action="store_true", help="with the time of each line")
    parser.add_argument("--all-containers", action="store_true", help="of all containers of the pod")
    parser.add_argument("--prefix", action="store_true", help="with the pod's and container's name before each line")
    add_connection_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    session = Session(arguments)
    sources = _sources(session)
    if len(sources) == 1 and not arguments.prefix:
        pod, container = sources[0]
        for piece in session.client.stream(
            POD.path(session.namespace, pod, "log"), params=_params(arguments, container)
        ):
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
        return 0
    if arguments.follow:
        return _follow_all(session, sources)
    for pod, container in sources:
        for line in session.client.lines(POD.path(session.namespace, pod, "log"), params=_params(arguments, container)):
            _print(arguments, pod, container, line, 0)
    return 0


def _sources(session: Session) -> list[tuple[str, str]]:
    """Pod and container names to show."""
    arguments = session.arguments
    if bool(arguments.pod) == bool(arguments.selector):
        raise UserError("name a pod (or deployment/NAME), or choose pods with -l LABELS")
    pods: list[Object]
    if arguments.selector:
        pods = session.client.list(POD, session.namespace, label_selector=arguments.selector).get("items") or []
        if not pods:
            raise UserError(f"no pod has the labels {arguments.selector!r}")
        if arguments.tail < 0:
            arguments.tail = 10
    else:
        pods = find_pods(session, arguments.pod)[:1]
    wanted = arguments.container or arguments.container_word or ""
    found = []
    for pod in pods:
        names = container_names(pod)
        if wanted and wanted not in names:
            raise UserError(f"pod {name_of(pod)} has no container {wanted!r}: it has {', '.join(names)}")
        if arguments.all_containers:
            found += [(name_of(pod), name) for name in names]
        else:
            found.append((name_of(pod), wanted or default_container(pod)))
    if len(pods) == 1 and not wanted and not arguments.all_containers and len(pods[0]["spec"]["containers"]) > 1:
        print(
            f"showing container {found[0][1]!r} of {', '.join(container_names(pods[0]))}: -c chooses", file=sys.stderr
        )
    return found


def _params(arguments: argparse.Namespace, container: str) -> dict[str, str]:
    return {
        "container": container,
        "follow": "true" if arguments.follow else "",
        "previous": "true" if arguments.previous else "",
        "timestamps": "true" if arguments.timestamps else "",
        "tailLines": str(arguments.tail) if arguments.tail >= 0 else "",
        "sinceSeconds": str(seconds_of(arguments.since)) if arguments.since else "",
        "sinceTime": arguments.since_time,
        "limitBytes": str(arguments.limit_bytes or ""),
    }


def seconds_of(text: str) -> int:
    """The seconds of `90`, `90s`, `5m`, `1h30m`. Raises `UserError`."""
    if text.isdigit():
        return int(text)
    parts = re.findall(r"(\d+)(h|m|s)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise UserError(f"{text!r} is no duration: write for instance 90s, 5m or 1h30m")
    return sum(int(number) * {"h": 3600, "m": 60, "s": 1}[unit] for number, unit in parts)


def _follow_all(session: Session, sources: list[tuple[str, str]]) -> int:
    """Several logs at once: a thread and a connection for each, lines whole and in the order of their arrival."""
    lines: queue.Queue[tuple[int, bytes | Exception | None]] = queue.Queue(LINES_WAITING)

    def follow(index: int) -> None:
        pod, container = sources[index]
        client = BlockingClient(session.config)
        try:
            path = POD.path(session.namespace, pod, "log")
            for line in client.lines(path, params=_params(session.arguments, container)):
                lines.put((index, line))
        except (ApiError, UserError) as error:
            lines.put((index, error))
        finally:
            lines.put((index, None))

    for index in range(len(sources)):
        threading.Thread(target=follow, args=(index,), daemon=True).start()
    open_logs, status = len(sources), 0
    while open_logs:
        index, line = lines.get()
        pod, container = sources[index]
        if line is None:
            open_logs -= 1
        elif isinstance(line, Exception):
            print(f"pyk: {pod}/{container}: {line}", file=sys.stderr)
            status = 1
        else:
            _print(session.arguments, pod, container, line, index)
    return status


def _print(arguments: argparse.Namespace, pod: str, container: str, line: bytes, index: int) -> None:
    prefix = f"[pod/{pod}/{container}] " if arguments.prefix or arguments.follow else ""
    if prefix and sys.stdout.isatty():
        prefix = f"\x1b[{COLOURS[index % len(COLOURS)]}m{prefix}\x1b[0m"
    sys.stdout.buffer.write(prefix.encode() + line + b"\n")
    sys.stdout.buffer.flush()
