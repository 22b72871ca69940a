"""`pyk apply` and `pyk create`: make the cluster's objects as the manifests say.

`apply` is server-side apply as the manager `pyk`: the server creates what is missing, sets what is written, removes
what was applied before and is written no more, and leaves alone what others own. What would change others' fields is
told with the owner and the line, and is done with `--force-conflicts`. An object of an older client-side apply is taken
over.
Each object is changed whole or not at all.
"""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any

from pyk.api.objects import Object, name_of
from pyk.api.status import ApiError
from pyk.cli.manifests import Manifest, read_manifests
from pyk.cli.printers import object_printer
from pyk.cli.serverside import MANAGER, coloured, difference, taken_over, written_path
from pyk.cli.session import Session, add_connection_options
from pyk.errors import UserError

CONFLICT_RETRIES = 5


def register(subparsers: Any) -> None:
    for name, text in (
        ("apply", "create or change objects as manifests say"),
        ("create", "create the objects of manifests"),
    ):
        parser = subparsers.add_parser(name, help=text)
        parser.add_argument(
            "-f", "--filename", action="append", required=True, metavar="SOURCE", help="a file, folder, URL or -"
        )
        parser.add_argument("-R", "--recursive", action="store_true", help="folders with the folders inside them")
        parser.add_argument("-o", "--output", default="", metavar="FORM", help="yaml, json, name, jsonpath=...")
        parser.add_argument(
            "--dry-run", choices=["none", "client", "server"], default="none", help="show what would happen"
        )
        if name == "apply":
            parser.add_argument("--diff", action="store_true", help="show what would change, and change nothing")
            parser.add_argument("--force-conflicts", action="store_true", help="take over the fields that others own")
            parser.add_argument("--server-side", action="store_true", help="accepted for kubectl's sake: always so")
            parser.add_argument("--wait", action="store_true", help="show the progress until everything runs")
            parser.add_argument("--timeout", type=float, default=120, metavar="SECONDS", help="how long --wait waits")
        add_connection_options(parser)
        parser.set_defaults(run=run_apply if name == "apply" else run_create)


def run_apply(arguments: argparse.Namespace) -> int:
    session = Session(arguments)
    manifests = _manifests(session)
    status, applied = _each(session, manifests, _show_difference if arguments.diff else _apply)
    if status == 0 and arguments.wait and arguments.dry_run == "none" and not arguments.diff:
        from pyk.cli.progress import wait_until_running

        return wait_until_running(session.config, applied, timeout_seconds=arguments.timeout)
    return status


def run_create(arguments: argparse.Namespace) -> int:
    session = Session(arguments)
    status, _ = _each(session, _manifests(session), _create)
    return status


def _manifests(session: Session) -> list[Manifest]:
    manifests = read_manifests(session.arguments.filename, recursive=session.arguments.recursive)
    for manifest in manifests:
        metadata = manifest.obj["metadata"]
        if not manifest.kind.namespaced:
            if "namespace" in metadata:
                raise UserError(f"{_where(manifest, 'metadata.namespace')}: a {manifest.kind.kind} is in no namespace")
            continue
        given = session.arguments.namespace
        if given and metadata.get("namespace", given) != given:
            raise UserError(
                f"{_where(manifest, 'metadata.namespace')}: the object's namespace is {metadata['namespace']!r}, "
                f"but -n says {given!r}"
            )
        metadata.setdefault("namespace", session.namespace)
    return manifests


def _each(session: Session, manifests: list[Manifest], act: Any) -> tuple[int, list[Object]]:
    """Do it for each object, telling where one is refused: the exit status, and the objects as they are now."""
    printer = object_printer(session.arguments.output)
    dry = {"client": " (dry run)", "server": " (server dry run)"}.get(session.arguments.dry_run, "")
    status, done = 0, []
    for manifest in manifests:
        try:
            obj, what = act(session, manifest)
        except ApiError as error:
            status = 1
            for line in _explain(manifest, error):
                print(f"pyk: {line}", file=sys.stderr)
            continue
        done.append(obj)
        if printer is None and what:
            print(f"{manifest.kind.resource_name}/{name_of(obj)} {what}{dry}")
    if printer is not None and done:
        sys.stdout.write(printer(done[0] if len(done) == 1 else done))
    sys.stdout.flush()
    return status, done


def _where(manifest: Manifest, path: str) -> str:
    return f"{manifest.source}:{manifest.line_of(path)}"


def _explain(manifest: Manifest, error: ApiError) -> list[str]:
    """A line for each thing that the server found wrong, with the line of the manifest where it is known."""
    name = manifest.obj["metadata"].get("name", "")
    causes = [cause for cause in error.details.get("causes") or [] if cause.get("field")]
    if causes and causes[0].get("reason") == "FieldManagerConflict":
        return [*(_conflict(manifest, cause) for cause in causes), "--force-conflicts takes them over"]
    if causes:
        return [
            f"{_where(manifest, cause['field'])}: {manifest.kind.kind} {name!r}: {cause['field']}: {cause['message']}"
            for cause in causes
        ]
    unknown = re.findall(r'(?:unknown|duplicate) field "([^"]+)"', error.message)
    if unknown:
        return [f"{_where(manifest, path)}: {manifest.kind.kind} {name!r}: unknown field {path!r}" for path in unknown]
    if typed := _of_typed_patch(manifest, error.message):
        return [f"{_where(manifest, path)}: {manifest.kind.kind} {name!r}: {text}" for path, text in typed]
    named = re.search(r"\b((?:spec|metadata|data|status|stringData)(?:\.[\w-]+|\[\d+\])+)", error.message)
    place = _where(manifest, named.group(1) if named else "")
    return [f"{place}: {manifest.kind.kind} {name!r}: {error.message}"]


def _conflict(manifest: Manifest, cause: dict[str, str]) -> str:
    path = written_path(manifest.obj, cause["field"])
    owner = cause["message"].removeprefix("conflict with ")
    name = manifest.obj["metadata"]["name"]
    return f"{_where(manifest, path)}: {manifest.kind.kind} {name!r}: {path} is owned by {owner}"


def _of_typed_patch(manifest: Manifest, message: str) -> list[tuple[str, str]]:
    """The paths and texts of what the server found wrong with the types of an applied document."""
    _, is_typed, problems = message.partition("failed to create typed patch object ")
    found = []
    for problem in re.split(r"\): (?:errors:)?|\n", problems)[1:] if is_typed else []:
        named, separator, text = problem.strip().partition(": ")
        if not separator:
            continue
        path = written_path(manifest.obj, named)
        if text.startswith("duplicate entries for key "):
            # The server names the list and the keys; what is wrong is the second one of them.
            keys = text.removeprefix("duplicate entries for key ")
            item, first = written_path(manifest.obj, named + keys), re.match(r"\[(\w*)=(.*?)[,\]]", keys)
            path = f"{item}.{first[1]}" if first and first[1] else item
            text = f"{path}: Duplicate value: {first[2] if first else keys}"
        elif text == "field not declared in schema":
            text = f"unknown field {path!r}"
        else:
            text = f"{path}: {text}"
        found.append((path, text))
    return found


# One object


def _params(session: Session) -> dict[str, str]:
    dry = {} if session.arguments.dry_run == "none" else {"dryRun": "All"}
    return {"fieldManager": MANAGER, "fieldValidation": "Strict", **dry}


def _create(session: Session, manifest: Manifest) -> tuple[Object, str]:
    if session.arguments.dry_run == "client":
        return manifest.obj, "created"
    path = manifest.kind.path(manifest.obj["metadata"].get("namespace", ""))
    created: Object = session.client.json("POST", path, params=_params(session), body=manifest.obj)
    return created, "created"


def _apply(session: Session, manifest: Manifest) -> tuple[Object, str]:
    for _ in range(CONFLICT_RETRIES):
        live = _live(session, manifest)
        try:
            applied = _send(session, manifest, live, _params(session))
        except ApiError as error:
            is_race = error.code == 409 and not error.details.get("causes")
            if not is_race or "resourceVersion" in manifest.obj["metadata"]:
                raise
            last = error
            continue
        if live is None:
            return applied, "created"
        if session.arguments.dry_run == "none":
            is_same = applied["metadata"]["resourceVersion"] == live["metadata"]["resourceVersion"]
        else:
            is_same = not difference(live, applied, "")
        return applied, "unchanged" if is_same else "configured"
    raise last


def _show_difference(session: Session, manifest: Manifest) -> tuple[Object, str]:
    live = _live(session, manifest)
    wanted = _send(session, manifest, live, {**_params(session), "dryRun": "All"})
    lines = difference(live, wanted, str(manifest))
    for line in coloured(lines) if sys.stdout.isatty() else lines:
        print(line)
    return wanted, ""


def _live(session: Session, manifest: Manifest) -> Object | None:
    metadata = manifest.obj["metadata"]
    if "name" not in metadata:
        raise UserError(f"{_where(manifest, 'metadata')}: apply needs metadata.name; use 'pyk create' for generateName")
    try:
        return session.client.get(manifest.kind, metadata["name"], metadata.get("namespace", ""))
    except ApiError as error:
        if error.code != 404:
            raise
        return None


def _send(session: Session, manifest: Manifest, live: Object | None, params: dict[str, str]) -> Object:
    """One server-side apply. Raises `ApiError`."""
    metadata = manifest.obj["metadata"]
    path = manifest.kind.path(metadata.get("namespace", ""), metadata["name"])
    is_forced = session.arguments.force_conflicts
    entries = taken_over(live) if live is not None else None
    if live is not None and entries is not None:
        if "dryRun" in params:
            is_forced = True  # the fields are this command's already, but that cannot be said without writing it
        else:
            version = live["metadata"]["resourceVersion"]
            patch = {"metadata": {"managedFields": entries, "resourceVersion": version}}
            session.client.json(
                "PATCH",
                path,
                params={"fieldManager": MANAGER},
                body=patch,
                content_type="application/merge-patch+json",
            )
    written = {key: value for key, value in metadata.items() if key != "managedFields"}  # as `get -o yaml` shows them
    applied: Object = session.client.json(
        "PATCH",
        path,
        params={**params, "force": "true" if is_forced else "false"},
        body={**manifest.obj, "metadata": written},
        content_type="application/apply-patch+yaml",
    )
    return applied
