"""`pyk delete`: by manifest, by name, by label, or all of a kind; waits until the objects are gone."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from pyk.api.kinds import Kind
from pyk.api.objects import Object, name_of, namespace_of, uid_of
from pyk.api.status import ApiError
from pyk.cli.manifests import read_manifests
from pyk.cli.session import Session, add_connection_options, parse_wanted
from pyk.errors import UserError


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser("delete", help="delete objects")
    parser.add_argument("what", nargs="*", metavar="KIND NAME", help="pod web, deployment/web, ...")
    parser.add_argument("-f", "--filename", action="append", default=[], metavar="SOURCE", help="a file, folder or URL")
    parser.add_argument("-R", "--recursive", action="store_true", help="folders with the folders inside them")
    parser.add_argument("-l", "--selector", default="", metavar="LABELS", help="objects with these labels")
    parser.add_argument("--field-selector", default="", metavar="FIELDS", help="objects with these fields")
    parser.add_argument("--all", action="store_true", help="all objects of the kind in the namespace")
    parser.add_argument("-A", "--all-namespaces", action="store_true", help="in all namespaces")
    parser.add_argument("--grace-period", type=int, default=None, metavar="SECONDS", help="time to end in")
    parser.add_argument("--now", action="store_true", help="the same as --grace-period=1")
    parser.add_argument("--force", action="store_true", help="with --grace-period=0: do not wait for the node")
    parser.add_argument("--cascade", choices=["background", "foreground", "orphan"], default="background")
    parser.add_argument("--ignore-not-found", action="store_true", help="a missing object is no error")
    parser.add_argument("--no-wait", action="store_true", help="return before the objects are gone")
    add_connection_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    session = Session(arguments)
    targets, status = _targets(session)
    deleted = []
    for kind, namespace, name in targets:
        try:
            answer = session.client.json("DELETE", kind.path(namespace, name), body=_options(arguments))
        except ApiError as error:
            if error.code != 404 or not arguments.ignore_not_found:
                print(f"pyk: {error.message}", file=sys.stderr)
                status = 1
            continue
        print(f'{kind.resource_name} "{name}" deleted', flush=True)
        if answer.get("kind") == kind.kind:
            deleted.append((kind, answer))
    if not arguments.no_wait and arguments.cascade != "orphan":
        for kind, obj in deleted:
            _wait_gone(session, kind, obj)
    return status


def _targets(session: Session) -> tuple[list[tuple[Kind, str, str]], int]:
    arguments = session.arguments
    if arguments.filename:
        if arguments.what:
            raise UserError("delete either by -f or by name, not both")
        found = []
        for manifest in reversed(read_manifests(arguments.filename, recursive=arguments.recursive)):
            metadata = manifest.obj["metadata"]
            namespace = metadata.get("namespace") or session.namespace if manifest.kind.namespaced else ""
            found.append((manifest.kind, namespace, metadata.get("name", "")))
        return found, 0
    choosing = bool(arguments.selector or arguments.field_selector or arguments.all)
    wanted = parse_wanted(arguments.what, need_names=not choosing)
    named = [(one.kind, session.namespace, name) for one in wanted for name in one.names]
    if choosing and named:
        raise UserError("delete either by name or by selector (-l, --field-selector, --all), not both")
    for one in wanted if choosing else []:
        listed = session.client.list(
            one.kind,
            session.namespace,
            label_selector=arguments.selector,
            field_selector=arguments.field_selector,
        )
        named += [(one.kind, namespace_of(item), name_of(item)) for item in listed.get("items") or []]
    if choosing and not named:
        print("No resources found", file=sys.stderr)
    return named, 0


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    grace = 1 if arguments.now else arguments.grace_period
    if grace == 0 and not arguments.force:
        grace = 1
    if arguments.force and grace is None:
        grace = 0
    options: dict[str, Any] = {
        "kind": "DeleteOptions",
        "apiVersion": "v1",
        "propagationPolicy": arguments.cascade.capitalize(),
    }
    if grace is not None:
        options["gracePeriodSeconds"] = grace
    return options


def _wait_gone(session: Session, kind: Kind, obj: Object) -> None:
    """Return when the object, or the one of its name, is gone or is another."""
    path = kind.path(namespace_of(obj))
    selector = {"fieldSelector": f"metadata.name={name_of(obj)}"}
    while True:
        listed = session.client.json("GET", path, params=selector)
        if all(uid_of(item) != uid_of(obj) for item in listed.get("items") or []):
            return
        params = {**selector, "watch": "true", "resourceVersion": listed["metadata"]["resourceVersion"]}
        for line in session.client.lines(path, params=params):
            if json.loads(line)["type"] in ("DELETED", "ERROR"):
                break
