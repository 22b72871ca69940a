"""`pyk get`: tables, documents and watches of any kind."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from pyk.api.objects import Object
from pyk.api.status import ApiError
from pyk.cli.jsonpath import parse_path, values
from pyk.cli.printers import ObjectPrinter, TablePrinter, object_printer
from pyk.cli.session import Session, Wanted, add_connection_options, parse_wanted
from pyk.errors import UserError

TABLE_ACCEPT = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser("get", help="show objects as a table, YAML, JSON, names or a JSONPath")
    parser.add_argument("what", nargs="+", metavar="KIND [NAME]", help="pods, deploy web, pod/web, all, ...")
    parser.add_argument("-o", "--output", default="", metavar="FORM", help="wide, yaml, json, name, jsonpath=..., ...")
    parser.add_argument("-w", "--watch", action="store_true", help="go on showing changes")
    parser.add_argument("--watch-only", action="store_true", help="show changes only")
    parser.add_argument("-l", "--selector", default="", metavar="LABELS", help="only objects with these labels")
    parser.add_argument("--field-selector", default="", metavar="FIELDS", help="for instance status.phase=Running")
    parser.add_argument("-A", "--all-namespaces", action="store_true", help="objects of all namespaces")
    parser.add_argument("-L", "--label-columns", action="append", default=[], metavar="LABEL", help="labels as columns")
    parser.add_argument("--show-labels", action="store_true", help="all labels as a column")
    parser.add_argument("--no-headers", action="store_true", help="leave the header line out")
    parser.add_argument("--ignore-not-found", action="store_true", help="a missing object is no error")
    parser.add_argument("--sort-by", default="", metavar="PATH", help="order by a JSONPath such as .metadata.name")
    add_connection_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    session = Session(arguments)
    wanted = parse_wanted(arguments.what)
    printer = object_printer(arguments.output)
    watching = arguments.watch or arguments.watch_only
    if watching and len(wanted) != 1:
        raise UserError("a watch shows one kind, or one object: name just one")
    if printer is not None or arguments.sort_by:
        return _show_objects(session, wanted, printer)
    return _show_tables(session, wanted)


def _selectors(arguments: argparse.Namespace, name: str = "") -> dict[str, str]:
    fields = [part for part in (arguments.field_selector, f"metadata.name={name}" if name else "") if part]
    return {"labelSelector": arguments.selector, "fieldSelector": ",".join(fields)}


# Tables


def _show_tables(session: Session, wanted: list[Wanted]) -> int:
    arguments = session.arguments
    several = len(wanted) > 1
    shown = 0
    missing: list[str] = []
    label_columns = [part for text in arguments.label_columns for part in text.split(",")]
    for one in wanted:
        printer = TablePrinter(
            wide=arguments.output == "wide",
            headers=not arguments.no_headers,
            namespaces=one.kind.namespaced and arguments.all_namespaces,
        ).with_labels(label_columns, every=arguments.show_labels)
        table, absent = _table(session, one)
        missing += absent
        if table.get("rows"):
            if shown and several:
                print()
            shown += len(table["rows"])
            if not arguments.watch_only:
                printer.print(table, prefix=f"{one.kind.resource_name}/" if several else "")
        if arguments.watch or arguments.watch_only:
            _watch_table(session, one, table, printer)
    if missing and not arguments.ignore_not_found:
        for line in missing:
            print(f"pyk: {line}", file=sys.stderr)
        return 1
    if not shown and not missing and not any(one.names for one in wanted):
        where = f" in {session.namespace} namespace" if session.namespace and wanted[0].kind.namespaced else ""
        print(f"No resources found{where}.", file=sys.stderr)
    return 0


def _table(session: Session, one: Wanted) -> tuple[dict[str, Any], list[str]]:
    """The table of the wanted objects, and a line for each that is missing."""
    if not one.names:
        found: dict[str, Any] = session.client.json(
            "GET", one.kind.path(session.namespace), params=_selectors(session.arguments), accept=TABLE_ACCEPT
        )
        return found, []
    table: dict[str, Any] = {}
    missing = []
    for name in one.names:
        try:
            part = session.client.json("GET", one.kind.path(_one(session, one), name), accept=TABLE_ACCEPT)
        except ApiError as error:
            if error.code != 404:
                raise
            missing.append(error.message)
            continue
        if table:
            table["rows"] += part["rows"]
        else:
            table = part
    return table, missing


def _one(session: Session, one: Wanted) -> str:
    if one.kind.namespaced and not session.namespace:
        raise UserError("an object cannot be had by name from all namespaces: use -n instead of -A")
    return session.namespace


def _watch_table(session: Session, one: Wanted, table: dict[str, Any], printer: TablePrinter) -> None:
    """Show changes until the server ends the watch; then go on from where it ended."""
    if len(one.names) > 1:
        raise UserError("a watch shows one object or all: name just one")
    version = (table.get("metadata") or {}).get("resourceVersion", "")
    params = {**_selectors(session.arguments, *one.names), "watch": "true", "allowWatchBookmarks": "true"}
    while True:
        path = one.kind.path(session.namespace)
        for line in session.client.lines(path, params={**params, "resourceVersion": version}, accept=TABLE_ACCEPT):
            event = json.loads(line)
            if event["type"] == "ERROR":
                error = ApiError.from_status(500, event["object"])
                if error.code != 410:
                    raise error
                version = ""
                break
            rows = event["object"].get("rows") or []
            if event["type"] != "BOOKMARK":
                printer.print(event["object"])
            metadata = rows[0]["object"]["metadata"] if rows else event["object"].get("metadata") or {}
            version = metadata.get("resourceVersion", version)


# Documents


def _show_objects(session: Session, wanted: list[Wanted], printer: ObjectPrinter | None) -> int:
    arguments = session.arguments
    objects: list[Object] = []
    missing: list[str] = []
    for one in wanted:
        found, absent = _objects(session, one)
        objects += found
        missing += absent
    if arguments.sort_by:
        objects = _sorted(objects, arguments.sort_by)
    if printer is None:
        _print_sorted_table(session, wanted, objects)
    elif not missing or objects:
        single = len(wanted) == 1 and len(wanted[0].names) == 1
        sys.stdout.write(printer(objects[0] if single else objects))
    if missing and not arguments.ignore_not_found:
        for line in missing:
            print(f"pyk: {line}", file=sys.stderr)
        return 1
    if printer is not None and (arguments.watch or arguments.watch_only):
        _watch_objects(session, wanted[0], printer)
    return 0


def _objects(session: Session, one: Wanted) -> tuple[list[Object], list[str]]:
    if not one.names:
        params = _selectors(session.arguments)
        listed = session.client.json("GET", one.kind.path(session.namespace), params=params)
        about = {"apiVersion": one.kind.api_version, "kind": one.kind.kind}
        return [{**about, **item} for item in listed.get("items") or []], []
    found, missing = [], []
    for name in one.names:
        try:
            found.append(session.client.get(one.kind, name, _one(session, one)))
        except ApiError as error:
            if error.code != 404:
                raise
            missing.append(error.message)
    return found, missing


def _sorted(objects: list[Object], path: str) -> list[Object]:
    steps = parse_path(path)

    def key(obj: Object) -> tuple[int, float, str]:
        found = values(steps, obj, obj)
        if not found:
            return (0, 0.0, "")
        first = found[0]
        number = float(first) if isinstance(first, int | float) and not isinstance(first, bool) else 0.0
        return (1, number, str(first))

    return sorted(objects, key=key)


def _print_sorted_table(session: Session, wanted: list[Wanted], objects: list[Object]) -> None:
    """The server's table, with its rows in the order of the sorted objects."""
    order = {obj["metadata"]["uid"]: place for place, obj in enumerate(objects)}
    for one in wanted:
        table, _ = _table(session, one)
        rows = table.get("rows") or []
        rows.sort(key=lambda row: order.get(row["object"]["metadata"]["uid"], len(order)))
        TablePrinter(
            wide=session.arguments.output == "wide",
            headers=not session.arguments.no_headers,
            namespaces=one.kind.namespaced and session.arguments.all_namespaces,
        ).print(table)


def _watch_objects(session: Session, one: Wanted, printer: ObjectPrinter) -> None:
    listed = session.client.json("GET", one.kind.path(session.namespace), params={"limit": "1"})
    params = {**_selectors(session.arguments, *one.names), "watch": "true"}
    params["resourceVersion"] = listed["metadata"]["resourceVersion"]
    for line in session.client.lines(one.kind.path(session.namespace), params=params):
        event = json.loads(line)
        if event["type"] == "ERROR":
            raise ApiError.from_status(500, event["object"])
        if event["type"] != "BOOKMARK":
            text = printer(event["object"])
            sys.stdout.write(text if text.endswith("\n") else text + "\n")
            sys.stdout.flush()
