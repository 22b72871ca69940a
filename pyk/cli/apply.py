"""`pyk apply` and `pyk create`: make the cluster's objects as the manifests say.

`apply` creates what is missing and patches what differs: a three-way strategic merge of what was applied last (kept
in the annotation that kubectl uses, so both may be mixed), what is written now, and what the cluster has.
Each object is one request: it is changed whole or not at all.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from typing import Any

from pyk.api.objects import Object, name_of
from pyk.api.status import ApiError
from pyk.cli.manifests import Manifest, read_manifests
from pyk.cli.printers import object_printer
from pyk.cli.session import Session, add_connection_options
from pyk.errors import UserError

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
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
            parser.add_argument("--wait", action="store_true", help="show the progress until everything runs")
            parser.add_argument("--timeout", type=float, default=120, metavar="SECONDS", help="how long --wait waits")
        add_connection_options(parser)
        parser.set_defaults(run=run_apply if name == "apply" else run_create)


def run_apply(arguments: argparse.Namespace) -> int:
    session = Session(arguments)
    manifests = _manifests(session)
    status, applied = _each(session, manifests, _apply)
    if status == 0 and arguments.wait and arguments.dry_run == "none":
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
        if printer is None:
            print(f"{manifest.kind.resource_name}/{name_of(obj)} {what}{dry}")
    if printer is not None and done:
        sys.stdout.write(printer(done[0] if len(done) == 1 else done))
    sys.stdout.flush()
    return status, done


def _where(manifest: Manifest, path: str) -> str:
    return f"{manifest.source}:{manifest.line_of(path)}"


def _explain(manifest: Manifest, error: ApiError) -> list[str]:
    """A line for each thing that the server found wrong, with the line of the manifest where it is known."""
    import re

    name = manifest.obj["metadata"].get("name", "")
    causes = [cause for cause in error.details.get("causes") or [] if cause.get("field")]
    if causes:
        return [
            f"{_where(manifest, cause['field'])}: {manifest.kind.kind} {name!r}: {cause['field']}: {cause['message']}"
            for cause in causes
        ]
    unknown = re.findall(r'(?:unknown|duplicate) field "([^"]+)"', error.message)
    if unknown:
        return [f"{_where(manifest, path)}: {manifest.kind.kind} {name!r}: unknown field {path!r}" for path in unknown]
    named = re.search(r"\b((?:spec|metadata|data|status|stringData)(?:\.[\w-]+|\[\d+\])+)", error.message)
    place = _where(manifest, named.group(1) if named else "")
    return [f"{place}: {manifest.kind.kind} {name!r}: {error.message}"]


# One object


def _params(session: Session) -> dict[str, str]:
    dry = {"dryRun": "All"} if session.arguments.dry_run == "server" else {}
    return {"fieldManager": "pyk", "fieldValidation": "Strict", **dry}


def _create(session: Session, manifest: Manifest) -> tuple[Object, str]:
    if session.arguments.dry_run == "client":
        return manifest.obj, "created"
    path = manifest.kind.path(manifest.obj["metadata"].get("namespace", ""))
    created: Object = session.client.json("POST", path, params=_params(session), body=manifest.obj)
    return created, "created"


def _apply(session: Session, manifest: Manifest) -> tuple[Object, str]:
    if "name" not in manifest.obj["metadata"]:
        raise UserError(f"{_where(manifest, 'metadata')}: apply needs metadata.name; use 'pyk create' for generateName")
    for _ in range(CONFLICT_RETRIES):
        try:
            return _apply_once(session, manifest)
        except ApiError as error:
            raced = error.code == 409 and "resourceVersion" not in manifest.obj["metadata"]
            if not raced:
                raise
            last = error
    raise last


def _apply_once(session: Session, manifest: Manifest) -> tuple[Object, str]:
    metadata = manifest.obj["metadata"]
    namespace, name = metadata.get("namespace", ""), metadata["name"]
    written = with_last_applied(manifest.obj)
    try:
        live = session.client.get(manifest.kind, name, namespace)
    except ApiError as error:
        if error.code != 404:
            raise
        if session.arguments.dry_run == "client":
            return manifest.obj, "created"
        path = manifest.kind.path(namespace)
        return session.client.json("POST", path, params=_params(session), body=written), "created"
    from pyk.cli.threeway import three_way_patch

    last = json.loads((live["metadata"].get("annotations") or {}).get(LAST_APPLIED) or "{}")
    patch = three_way_patch(manifest.kind.model, last, written, live)
    if not patch:
        return live, "unchanged"
    if session.arguments.dry_run == "client":
        return live, "configured"
    patched: Object = session.client.json(
        "PATCH",
        manifest.kind.path(namespace, name),
        params=_params(session),
        body=patch,
        content_type="application/strategic-merge-patch+json",
    )
    same = patched["metadata"]["resourceVersion"] == live["metadata"]["resourceVersion"]
    return patched, "unchanged" if same else "configured"


def with_last_applied(obj: Object) -> Object:
    """A copy that remembers, in kubectl's annotation, what it says without the annotation."""
    plain = copy.deepcopy(obj)
    annotations = plain["metadata"].get("annotations")
    if annotations:
        annotations.pop(LAST_APPLIED, None)
    plain["metadata"].setdefault("annotations", {})
    remembered = json.dumps(plain, separators=(",", ":"), sort_keys=True) + "\n"
    plain["metadata"]["annotations"] = {**(plain["metadata"]["annotations"] or {}), LAST_APPLIED: remembered}
    return plain
