"""What the server serves: groups, versions and resources, and the server's own version.

Everything follows from the table of kinds and never changes while the server runs, so each document is made once, as
bytes. `/api` and `/apis` answer clients that accept aggregated discovery with all resources in one document. Source:
the Kubernetes documentation on API discovery.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from typing import Any

import orjson

from pyk.api.kinds import TABLE, Kind
from pyk.version import version_info

JSON = "application/json"
"""The content type of the plain documents."""
_STATUS_VERBS = ("get", "patch", "update")
# Subresources besides status and scale: the kind (and group and version, when they differ) and the verbs.
_SUBRESOURCES: dict[tuple[str, str], tuple[str, tuple[str, ...]]] = {
    ("pods", "attach"): ("PodAttachOptions", ("create", "get")),
    ("pods", "binding"): ("Binding", ("create",)),
    ("pods", "eviction"): ("Eviction", ("create",)),
    ("pods", "ephemeralcontainers"): ("Pod", _STATUS_VERBS),
    ("pods", "exec"): ("PodExecOptions", ("create", "get")),
    ("pods", "log"): ("Pod", ("get",)),
    ("pods", "portforward"): ("PodPortForwardOptions", ("create", "get")),
    ("pods", "proxy"): ("PodProxyOptions", ("create", "delete", "get", "patch", "update")),
    ("pods", "resize"): ("Pod", _STATUS_VERBS),
    ("services", "proxy"): ("ServiceProxyOptions", ("create", "delete", "get", "patch", "update")),
    ("nodes", "proxy"): ("NodeProxyOptions", ("create", "delete", "get", "patch", "update")),
    ("certificatesigningrequests", "approval"): ("CertificateSigningRequest", _STATUS_VERBS),
    ("namespaces", "finalize"): ("Namespace", ("update",)),
    ("serviceaccounts", "token"): ("TokenRequest", ("create",)),
}
_OF_OTHER_GROUPS = {"Eviction": ("policy", "v1"), "TokenRequest": ("authentication.k8s.io", "v1")}


def discovery_response(path: str, accept: str) -> tuple[bytes, str] | None:
    """The document at a path and its content type; None when the path is none of discovery's.

    `accept` is the request's Accept header.
    """
    path = path.rstrip("/")
    if path in ("/api", "/apis"):
        version = _aggregated_version(accept)
        if version:
            content_type = f"{JSON};g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
            return _aggregated(path == "/api", version), content_type
    document = _documents().get(path)
    return None if document is None else (document, JSON)


def _aggregated_version(accept: str) -> str:
    """The version of aggregated discovery that the client likes best; empty when it wants the plain lists."""
    for choice in accept.split(","):
        media_type, *parameters = (part.strip() for part in choice.split(";"))
        named = dict(parameter.partition("=")[::2] for parameter in parameters)
        if media_type not in (JSON, "*/*", "application/*"):
            continue
        if named.get("g") == "apidiscovery.k8s.io" and named.get("as") == "APIGroupDiscoveryList":
            if named.get("v") in ("v2", "v2beta1"):
                return named["v"]
        elif "as" not in named:
            return ""
    return ""


@cache
def group_versions() -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Every API group with its versions, the preferred one first; the core group is ``."""
    found: dict[str, list[str]] = {"": []}
    for kind in TABLE:
        versions = found.setdefault(kind.group, [])
        if kind.version not in versions:
            versions.append(kind.version)
    return tuple((group, tuple(versions)) for group, versions in found.items())


def resource_verbs(kind: Kind) -> tuple[str, ...]:
    """The verbs of a kind's main resource."""
    return kind.verbs


def storage_version_hash(kind: Kind) -> str:
    """Stands for the group, version and kind that objects are stored as, by which storage migrators see a change of it.

    It is made as Kubernetes makes it, and empty for what is not stored.
    """
    stored = kind.stored_as or kind
    if not stored.is_stored:
        return ""
    digest = sha256(f"{stored.group}/{stored.version}/{stored.kind}".encode()).digest()
    return b64encode(digest[:8]).decode()


def subresources_of(kind: Kind) -> Iterator[tuple[str, str, str, str, tuple[str, ...]]]:
    """Each subresource: its name; group, version and kind of what it takes or gives; its verbs."""
    for name in kind.subresources:
        response, verbs = _SUBRESOURCES[kind.plural, name]
        group, version = _OF_OTHER_GROUPS.get(response, (kind.group, kind.version))
        yield name, group, version, response, verbs
    if kind.scale is not None:
        yield "scale", "autoscaling", "v1", "Scale", _STATUS_VERBS
    if kind.has_status:
        yield "status", kind.group, kind.version, kind.kind, _STATUS_VERBS


@cache
def _documents() -> dict[str, bytes]:
    documents: dict[str, Any] = {
        "/version": version_info(),
        "/api": {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []},
        "/apis": {
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": [_group(group, versions) for group, versions in group_versions() if group],
        },
    }
    for group, versions in group_versions():
        root = f"/apis/{group}" if group else "/api"
        if group:
            documents[root] = {"kind": "APIGroup", "apiVersion": "v1", **_group(group, versions)}
        for version in versions:
            documents[f"{root}/{version}"] = {
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": f"{group}/{version}" if group else version,
                "resources": [resource for kind in _kinds(group, version) for resource in _resources(kind)],
            }
    return {path: orjson.dumps(document) for path, document in documents.items()}


def _kinds(group: str, version: str) -> list[Kind]:
    """The kinds of a group version, by name."""
    found = (kind for kind in TABLE if (kind.group, kind.version) == (group, version))
    return sorted(found, key=lambda kind: kind.plural)


def _group(group: str, versions: tuple[str, ...]) -> dict[str, Any]:
    listed = [{"groupVersion": f"{group}/{version}", "version": version} for version in versions]
    return {"name": group, "versions": listed, "preferredVersion": listed[0]}


def _resources(kind: Kind) -> Iterator[dict[str, Any]]:
    """The entries of a kind in an `APIResourceList`."""
    entry: dict[str, Any] = {
        "name": kind.plural,
        "singularName": kind.singular,
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": list(resource_verbs(kind)),
    }
    if kind.short_names:
        entry["shortNames"] = list(kind.short_names)
    if kind.categories:
        entry["categories"] = list(kind.categories)
    if hashed := storage_version_hash(kind):
        entry["storageVersionHash"] = hashed
    yield entry
    for name, group, version, response, verbs in subresources_of(kind):
        sub = {
            "name": f"{kind.plural}/{name}",
            "singularName": "",
            "namespaced": kind.namespaced,
            "kind": response,
            "verbs": list(verbs),
        }
        yield sub if group == kind.group else {**sub, "group": group, "version": version}


@cache
def _aggregated(is_core: bool, version: str) -> bytes:
    items = [
        {
            "metadata": {"name": group} if group else {},  # the core group has no name
            "versions": [_aggregated_group_version(group, each) for each in versions],
        }
        for group, versions in group_versions()
        if is_core == (group == "")
    ]
    api_version = f"apidiscovery.k8s.io/{version}"
    return orjson.dumps({"kind": "APIGroupDiscoveryList", "apiVersion": api_version, "metadata": {}, "items": items})


def _aggregated_group_version(group: str, version: str) -> dict[str, Any]:
    resources = []
    for kind in _kinds(group, version):
        resource: dict[str, Any] = {
            "resource": kind.plural,
            "responseKind": {"group": group, "version": version, "kind": kind.kind},
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "singularResource": kind.singular,
            "verbs": list(resource_verbs(kind)),
        }
        if kind.short_names:
            resource["shortNames"] = list(kind.short_names)
        if kind.categories:
            resource["categories"] = list(kind.categories)
        listed = [
            {"subresource": name, "responseKind": {"group": g, "version": v, "kind": k}, "verbs": list(verbs)}
            for name, g, v, k, verbs in subresources_of(kind)
        ]
        if listed:
            resource["subresources"] = listed
        resources.append(resource)
    return {"version": version, "freshness": "Current", "resources": resources}
