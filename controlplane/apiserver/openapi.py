"""OpenAPI documents of everything that is served: v3 one a group version, v2 one for all.

Schemas follow from the models, paths from the table of kinds. `kubectl explain`, client-side merging in `kubectl apply`
and generated clients read them; names and extensions (`x-kubernetes-group-version-kind`,
`x-kubernetes-patch-merge-key`, ...) are Kubernetes'. Documents are made when first asked for, and kept as bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import orjson

from controlplane.apiserver import openapi_paths
from controlplane.apiserver.discovery import group_versions
from controlplane.apiserver.openapi_proto import encode_document
from controlplane.apiserver.openapi_schemas import Dialect, Schemas
from pyk.api.kinds import TABLE, Kind
from pyk.version import KUBERNETES_VERSION

_INFO = {"title": "Kubernetes", "version": KUBERNETES_VERSION}
_BEARER = {"BearerToken": {"type": "apiKey", "in": "header", "name": "authorization", "description": "Bearer Token"}}


def _roots() -> Iterator[tuple[str, str, str]]:
    """Each group version: its path below /openapi/v3, group and version."""
    for group, versions in group_versions():
        for version in versions:
            yield (f"apis/{group}/{version}" if group else f"api/{version}"), group, version


def openapi_v3_index() -> bytes:
    """The body of `/openapi/v3`: where each group version's document is, with a hash that changes when it does."""
    return _index()


@cache
def _index() -> bytes:
    paths = {}
    for root, _, _ in _roots():
        digest = hashlib.sha256(openapi_v3(root) or b"").hexdigest().upper()
        paths[root] = {"serverRelativeURL": f"/openapi/v3/{root}?hash={digest}"}
    return orjson.dumps({"paths": paths})


@cache
def openapi_v3(path: str) -> bytes | None:
    """The document at `/openapi/v3/<path>` (`api/v1`, `apis/apps/v1`); None when there is none."""
    for root, group, version in _roots():
        if root == path.strip("/"):
            return _v3(group, version)
    return None


def _v3(group: str, version: str) -> bytes:
    kinds = [kind for kind in TABLE if (kind.group, kind.version) == (group, version)]
    schemas = Schemas(Dialect.V3)
    paths = _paths(kinds, schemas)
    return orjson.dumps(
        {
            "openapi": "3.0.0",
            "info": _INFO,
            "paths": paths,
            "components": {"schemas": schemas.definitions(), "securitySchemes": _BEARER},
        }
    )


def openapi_v2() -> bytes:
    """The body of `/openapi/v2`, in JSON."""
    return _v2()


@cache
def openapi_v2_protobuf() -> bytes:
    """The body of `/openapi/v2` in protobuf, for clients that check manifests themselves."""
    return encode_document(orjson.loads(_v2()))


@cache
def _v2() -> bytes:
    schemas = Schemas(Dialect.V2)
    paths = _paths(list(TABLE), schemas)
    return orjson.dumps(
        {
            "swagger": "2.0",
            "info": _INFO,
            "paths": paths,
            "definitions": schemas.definitions(),
            "securityDefinitions": _BEARER,
            "security": [{"BearerToken": []}],
        }
    )


def _paths(kinds: list[Kind], schemas: Schemas) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in kinds:
        schemas.add_kind(kind)
        found.update(openapi_paths.paths_of(kind, schemas))
    return found
