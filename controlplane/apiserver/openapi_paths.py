"""The operations on a kind as OpenAPI paths, for both versions of OpenAPI.

What differs between them: v2 has bodies among the parameters and media types beside the operation, v3 has them in
`requestBody` and in each response.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from controlplane.apiserver.discovery import resource_verbs, subresources_of
from controlplane.apiserver.openapi_parameters import PARAMETERS
from controlplane.apiserver.openapi_schemas import PATCH, Dialect, Schemas, group_version_kind
from pyk.api.apps import Scale
from pyk.api.authentication import TokenRequest
from pyk.api.base import Model
from pyk.api.core_pods import Binding
from pyk.api.kinds import Kind
from pyk.api.meta import DeleteOptions, Status
from pyk.api.policy import Eviction

_JSON = "application/json"
_READ_MEDIA = (_JSON, "application/yaml")
_PATCH_MEDIA = (
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
)
_WRITE = ("dryRun", "fieldManager", "fieldValidation")
_LIST = (
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
)
_DELETE = ("dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy")
_LOG = (
    "container",
    "follow",
    "limitBytes",
    "previous",
    "sinceSeconds",
    "sinceTime",
    "stream",
    "tailLines",
    "timestamps",
)
_STREAM = ("command", "container", "stderr", "stdin", "stdout", "tty")
_METHODS = {"update": "put", "patch": "patch", "create": "post", "get": "get", "delete": "delete"}


@dataclass(frozen=True, slots=True)
class _Operation:
    """One operation: its action (`x-kubernetes-action`), query parameters, body, and what it answers."""

    action: str
    about: dict[str, str]
    name: str
    description: str
    answer: dict[str, Any]
    query: tuple[str, ...] = ()
    body: dict[str, Any] | None = None
    body_media: tuple[str, ...] = (_JSON,)
    code: str = "200"


def paths_of(kind: Kind, schemas: Schemas) -> dict[str, Any]:
    """Every path of the kind with its operations."""
    writer = _Writer(kind, schemas)
    paths = writer.main()
    for name, group, version, response, verbs in subresources_of(kind):
        about = {"group": group, "version": version, "kind": response}
        paths[writer.path("{name}", name)] = writer.subresource(name, about, verbs)
    return paths


class _Writer:
    """Writes the operations of one kind."""

    def __init__(self, kind: Kind, schemas: Schemas) -> None:
        self._kind = kind
        self._schemas = schemas
        self._is_v2 = schemas.dialect is Dialect.V2
        self._about = group_version_kind(kind)
        group = "".join(word.capitalize() for word in kind.group.split(".")[0].split("-")) or "Core"
        self._suffix = f"{group}{kind.version.capitalize()}{'Namespaced' if kind.namespaced else ''}{kind.kind}"

    def path(self, name: str = "", subresource: str = "") -> str:
        return self._kind.path("{namespace}" if self._kind.namespaced else "", name, subresource)

    def main(self) -> dict[str, Any]:
        """The collection, the object, and the collection over all namespaces."""
        kind, schemas = self._kind, self._schemas
        whole = schemas.of(kind.model)
        if kind.is_question:
            ask = self._operation("post", f"create {_a(kind.kind)}", _WRITE, body=whole, answer=whole, code="201")
            return {self.path(): self._item([ask])}
        many = schemas.list_of(kind)
        if kind.is_computed:
            collection = [self._operation("list", f"list objects of kind {kind.kind}", _LIST, answer=many)]
            one = [self._operation("get", f"read the specified {kind.kind}", answer=whole)]
            return self._with_all(collection, one, many)
        options, status = schemas.of(DeleteOptions), schemas.of(Status)
        collection = [
            self._operation("list", f"list or watch objects of kind {kind.kind}", _LIST, answer=many),
            self._operation("post", f"create {_a(kind.kind)}", _WRITE, body=whole, answer=whole, code="201"),
        ]
        if "deletecollection" in resource_verbs(kind):
            about = f"delete collection of {kind.kind}"
            collection.append(
                self._operation("deletecollection", about, (*_LIST, *_DELETE), body=options, answer=status)
            )
        one = [
            self._operation("get", f"read the specified {kind.kind}", answer=whole),
            self._operation("put", f"replace the specified {kind.kind}", _WRITE, body=whole, answer=whole),
            self._patch(f"partially update the specified {kind.kind}", whole),
            self._operation(
                "delete",
                f"delete {_a(kind.kind)}",
                _DELETE,
                body=options,
                answer=whole if kind.returned_when_deleted else status,
            ),
        ]
        return self._with_all(collection, one, many)

    def _with_all(self, collection: list[_Operation], one: list[_Operation], many: dict[str, Any]) -> dict[str, Any]:
        kind = self._kind
        paths = {self.path(): self._item(collection), self.path("{name}"): self._item(one, has_name=True)}
        if kind.namespaced:
            everywhere = self._operation(
                "list", f"list or watch objects of kind {kind.kind} of all namespaces", _LIST, answer=many
            )
            paths[kind.path()] = self._item([everywhere], in_namespace=False)
        return paths

    def subresource(self, name: str, about: dict[str, str], verbs: tuple[str, ...]) -> dict[str, Any]:
        """The operations of a subresource."""
        streams = {"log": _LOG, "exec": _STREAM, "attach": _STREAM, "portforward": ("ports",), "proxy": ("path",)}
        if name in streams:
            query = streams[name]
            operations = [
                self._operation(
                    "connect" if name != "log" else "get",
                    f"connect {verb.upper()} requests to {name} of {self._kind.kind}",
                    query,
                    answer={"type": "string"},
                    about=about,
                    part=f"{name.capitalize()}",
                )
                for verb in verbs
            ]
            methods = [_METHODS[verb] for verb in verbs]
            return self._item(operations, has_name=True, methods=methods)
        models: dict[str, type[Model]] = {
            "scale": Scale,
            "binding": Binding,
            "eviction": Eviction,
            "token": TokenRequest,
        }
        model = self._schemas.of(models.get(name, self._kind.model))
        operations = []
        for verb in verbs:
            text = f"{verb} {name} of the specified {self._kind.kind}"
            part = name.capitalize()
            if verb == "patch":
                operations.append(self._patch(text, model, about=about, part=part))
            elif verb == "get":
                operations.append(self._operation("get", text, answer=model, about=about, part=part))
            else:
                method = _METHODS[verb]
                operations.append(
                    self._operation(method, text, _WRITE, body=model, answer=model, about=about, part=part)
                )
        return self._item(operations, has_name=True)

    def _patch(
        self, text: str, answer: dict[str, Any], *, about: dict[str, str] | None = None, part: str = ""
    ) -> _Operation:
        body = self._schemas.link(PATCH)
        return self._operation(
            "patch", text, _WRITE, body=body, body_media=_PATCH_MEDIA, answer=answer, about=about, part=part
        )

    def _operation(
        self,
        action: str,
        description: str,
        query: tuple[str, ...] = (),
        *,
        body: dict[str, Any] | None = None,
        body_media: tuple[str, ...] = (_JSON,),
        answer: dict[str, Any],
        code: str = "200",
        about: dict[str, str] | None = None,
        part: str = "",
    ) -> _Operation:
        return _Operation(
            action, about or self._about, self._suffix + part, description, answer, query, body, body_media, code
        )

    def _item(
        self,
        operations: list[_Operation],
        *,
        has_name: bool = False,
        in_namespace: bool = True,
        methods: list[str] | None = None,
    ) -> dict[str, Any]:
        """A path's operations and its own parameters."""
        item: dict[str, Any] = {}
        for index, operation in enumerate(operations):
            method = methods[index] if methods else _METHOD_OF_ACTION[operation.action]
            prefix = f"{operation.action}{method.capitalize()}" if operation.action == "connect" else operation.action
            suffix = operation.name if in_namespace else operation.name.replace("Namespaced", "") + "ForAllNamespaces"
            item[method] = self._written(operation, f"{prefix}{suffix}")
        parameters = []
        if has_name:
            parameters.append(self._parameter("name", "path", "string", f"name of the {self._kind.kind}"))
        if self._kind.namespaced and in_namespace:
            parameters.append(
                self._parameter("namespace", "path", "string", "object name and auth scope, such as for teams")
            )
        if parameters:
            item["parameters"] = parameters
        return item

    def _written(self, operation: _Operation, name: str) -> dict[str, Any]:
        parameters = [self._parameter(each, "query", *PARAMETERS[each]) for each in operation.query]
        text = {"description": "OK" if operation.code == "200" else "Created"}
        written: dict[str, Any] = {
            "description": operation.description,
            "operationId": name,
            "tags": [f"{self._kind.group.split('.')[0] or 'core'}_{self._kind.version}"],
            "x-kubernetes-action": operation.action,
            "x-kubernetes-group-version-kind": operation.about,
        }
        if self._is_v2:
            if operation.body is not None:
                parameters.append(
                    {"name": "body", "in": "body", "required": operation.action != "delete", "schema": operation.body}
                )
            written["consumes"] = list(operation.body_media) if operation.body is not None else ["*/*"]
            written["produces"] = list(_READ_MEDIA)
            written["schemes"] = ["https"]
            written["responses"] = {operation.code: {**text, "schema": operation.answer}}
        else:
            if operation.body is not None:
                content = {media: {"schema": operation.body} for media in operation.body_media}
                written["requestBody"] = {"content": content}
            content = {media: {"schema": operation.answer} for media in _READ_MEDIA}
            written["responses"] = {operation.code: {**text, "content": content}}
        written["responses"]["401"] = {"description": "Unauthorized"}
        if parameters:
            written["parameters"] = parameters
        return written

    def _parameter(self, name: str, place: str, kind: str, description: str) -> dict[str, Any]:
        parameter: dict[str, Any] = {"name": name, "in": place, "description": description}
        if place == "path":
            parameter["required"] = True
        typed: dict[str, Any] = {"type": kind, "uniqueItems": True}
        return {**parameter, **typed} if self._is_v2 else {**parameter, "schema": typed}


_METHOD_OF_ACTION = {
    "list": "get",
    "get": "get",
    "post": "post",
    "put": "put",
    "patch": "patch",
    "delete": "delete",
    "deletecollection": "delete",
}


def _a(word: str) -> str:
    return f"an {word}" if word[0] in "AEIOU" else f"a {word}"
