"""What a request asks for: its verb, resource and options, read from method, path and query as Kubernetes reads them.

`parse_request` turns a URL into a `RequestInfo`: the facts that authorization, admission, metrics and routing go by.
The option classes are the query parameters of each family of verbs, typed and checked; what cannot be understood is a
400, what contradicts itself a 422, in the words of kube-apiserver. Source: apiserver `pkg/endpoints/request`,
apimachinery `pkg/apis/meta/v1/validation`, and the API concepts page on resource versions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote

from pyk.api.kinds import BY_RESOURCE, Kind
from pyk.api.selectors import (
    BadSelector,
    FieldRequirement,
    LabelSelector,
    parse_field_selector,
    parse_label_selector,
)
from pyk.api.status import ApiError, FieldError, bad_request, invalid

Query = Mapping[str, Sequence[str]]
_META = "meta.k8s.io"
_NAMESPACE_SUBRESOURCES = ("status", "finalize")
_VERBS = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(slots=True)
class RequestInfo:
    """A request's facts. For a path outside of /api and /apis `is_resource` is false and `verb` the HTTP method.

    `kind` is None when the table has no such resource.
    """

    verb: str
    path: str
    is_resource: bool = False
    group: str = ""
    version: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    rest: str = ""
    """What follows the subresource, without the leading slash (`proxy/metrics/cadvisor`)."""
    kind: Kind | None = None
    fields: tuple[FieldRequirement, ...] = ()
    """The field selector's conditions of a list or watch."""

    @property
    def scope(self) -> str:
        """For metrics: `resource`, `namespace` or `cluster`."""
        return "resource" if self.name else "namespace" if self.namespace else "cluster"


def parse_query(query_string: str) -> dict[str, list[str]]:
    """All values of every parameter, in order."""
    found: dict[str, list[str]] = {}
    if query_string:
        for key, value in parse_qsl(query_string, keep_blank_values=True):
            found.setdefault(key, []).append(value)
    return found


def parse_request(method: str, raw_path: str, query: Query) -> RequestInfo:
    """The facts of a request. Never fails: an unknown resource has `kind` None."""
    path = unquote(raw_path) if "%" in raw_path else raw_path
    parts = path.strip("/").split("/")
    info = RequestInfo(method.lower(), path)
    if parts[0] == "api" and len(parts) >= 3:
        info.version, rest = parts[1], parts[2:]
    elif parts[0] == "apis" and len(parts) >= 4:
        info.group, info.version, rest = parts[1], parts[2], parts[3:]
    else:
        return info
    info.is_resource = True
    info.verb = _VERBS.get(method, method.lower())
    if rest[0] == "watch" and len(rest) > 1:
        info.verb, rest = "watch", rest[1:]
    if rest[0] == "namespaces" and len(rest) > 1:
        info.namespace = rest[1]
        if len(rest) > 2 and rest[2] not in _NAMESPACE_SUBRESOURCES:
            rest = rest[2:]
    info.resource = rest[0]
    if len(rest) > 1:
        info.name = rest[1]
    if len(rest) > 2:
        info.subresource = rest[2]
        info.rest = "/".join(rest[3:])
    if not info.name:
        _collection_verb(info, query)
    info.kind = BY_RESOURCE.get((info.group, info.version, info.resource))
    return info


def _collection_verb(info: RequestInfo, query: Query) -> None:
    if info.verb == "get":
        info.verb = "watch" if _flag(query, "watch") else "list"
    elif info.verb == "delete":
        info.verb = "deletecollection"
    if info.verb in ("list", "watch", "deletecollection") and "fieldSelector" in query:
        # A watch or list of one name is authorized as a request for that object.
        try:
            info.fields = parse_field_selector(query["fieldSelector"][0])
        except BadSelector:
            return  # the list answers it with a 400
        for requirement in info.fields:
            if requirement.field == "metadata.name" and requirement.equal and "/" not in requirement.value:
                info.name = requirement.value


def _text(query: Query, name: str) -> str:
    values = query.get(name)
    return values[0] if values else ""


def _flag(query: Query, name: str) -> bool:
    """As Go's conversion has it: `?watch`, `?watch=1` and `?watch=yes` are true; absent, `0` and `false` are not."""
    values = query.get(name)
    return bool(values) and values[0].lower() not in ("0", "false")  # type: ignore[index]


def _integer(query: Query, name: str) -> int | None:
    text = _text(query, name)
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax') from None


def parse_revision(text: str) -> int:
    """A resourceVersion as a number; 0 for an empty one. Raises 400."""
    if not text:
        return 0
    if not text.isascii() or not text.isdigit():
        raise bad_request(
            f'resourceVersion: Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax'
        )
    return int(text)


@dataclass(frozen=True, slots=True)
class ListOptions:
    """Options of list, watch and deletecollection."""

    labels: LabelSelector = ()
    fields: tuple[FieldRequirement, ...] = ()
    limit: int = 0
    continue_token: str = ""
    resource_version: str = ""
    resource_version_match: str = ""
    timeout_seconds: int | None = None
    allow_bookmarks: bool = False
    send_initial_events: bool | None = None

    @property
    def has_selector(self) -> bool:
        return bool(self.labels or self.fields)


def list_options(query: Query, *, watch: bool = False) -> ListOptions:
    """The options of a list (or watch). Raises 400 for what cannot be read and 422 for what contradicts itself."""
    if not query:
        return ListOptions()
    try:
        labels = parse_label_selector(_text(query, "labelSelector"))
        fields = parse_field_selector(_text(query, "fieldSelector"))
    except BadSelector as error:
        raise bad_request(str(error)) from None
    options = ListOptions(
        labels=labels,
        fields=fields,
        limit=max(_integer(query, "limit") or 0, 0),
        continue_token=_text(query, "continue"),
        resource_version=_text(query, "resourceVersion"),
        resource_version_match=_text(query, "resourceVersionMatch"),
        timeout_seconds=_integer(query, "timeoutSeconds"),
        allow_bookmarks=_flag(query, "allowWatchBookmarks"),
        send_initial_events=_flag(query, "sendInitialEvents") if "sendInitialEvents" in query else None,
    )
    parse_revision(options.resource_version)
    errors = _watch_errors(options) if watch else _list_errors(options)
    if errors:
        raise invalid(_META, "ListOptions", "", errors)
    return options


def _list_errors(options: ListOptions) -> list[FieldError]:
    errors = []
    match = options.resource_version_match
    if options.send_initial_events is not None:
        errors.append(FieldError.forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"))
    if match:
        if not options.resource_version:
            detail = "resourceVersionMatch is forbidden unless resourceVersion is provided"
            errors.append(FieldError.forbidden("resourceVersionMatch", detail))
        if options.continue_token:
            detail = "resourceVersionMatch is forbidden when continue is provided"
            errors.append(FieldError.forbidden("resourceVersionMatch", detail))
        if match not in ("Exact", "NotOlderThan"):
            supported = ("Exact", "NotOlderThan", "")
            errors.append(FieldError.not_supported("resourceVersionMatch", match, supported))
        if match == "Exact" and options.resource_version == "0":
            detail = 'resourceVersionMatch "Exact" is forbidden for resourceVersion "0"'
            errors.append(FieldError.forbidden("resourceVersionMatch", detail))
    return errors


def _watch_errors(options: ListOptions) -> list[FieldError]:
    errors = []
    match = options.resource_version_match
    if options.send_initial_events is not None:
        if match != "NotOlderThan":
            detail = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            errors.append(FieldError.forbidden("resourceVersionMatch", detail))
    elif match:
        detail = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
        errors.append(FieldError.forbidden("resourceVersionMatch", detail))
    if match and match != "NotOlderThan":
        errors.append(FieldError.not_supported("resourceVersionMatch", match, ("NotOlderThan",)))
    if match and options.continue_token:
        detail = "resourceVersionMatch is forbidden when continue is provided"
        errors.append(FieldError.forbidden("resourceVersionMatch", detail))
    return errors


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """Options of writes. `field_validation` is Strict, Warn or Ignore; `force` is None when not given."""

    dry_run: bool = False
    field_manager: str = ""
    field_validation: str = "Warn"
    force: bool | None = None


_DEFAULT_WRITE = WriteOptions()


def write_options(query: Query, options_kind: str) -> WriteOptions:
    """The options of a write; `options_kind` (CreateOptions, ...) names them in errors. Raises 422."""
    if not query:
        return _DEFAULT_WRITE
    errors = list(_dry_run_errors(query.get("dryRun", ())))
    validation = _text(query, "fieldValidation") or "Warn"
    if validation not in ("Ignore", "Strict", "Warn"):
        supported = ("", "Ignore", "Strict", "Warn")
        errors.append(FieldError.not_supported("fieldValidation", validation, supported))
    manager = _text(query, "fieldManager")
    if len(manager) > 128:
        errors.append(FieldError.too_long("fieldManager", "may not be more than 128 bytes"))
    if manager and not manager.isprintable():
        errors.append(FieldError.invalid("fieldManager", manager, "should only contain printable characters"))
    if errors:
        raise invalid(_META, options_kind, "", errors)
    force = _flag(query, "force") if _text(query, "force") else None
    return WriteOptions(bool(query.get("dryRun")), manager, validation, force)


def _dry_run_errors(values: Sequence[str]) -> list[FieldError]:
    return [FieldError.not_supported("dryRun", [value], ("All",)) for value in values if value != "All"]


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """How to delete. `propagation_policy` is Orphan, Foreground, Background or empty (the kind's default)."""

    grace_period_seconds: int | None = None
    propagation_policy: str = ""
    uid: str = ""
    resource_version: str = ""
    dry_run: bool = False


def delete_options(query: Query, body: Mapping[str, Any]) -> DeleteOptions:
    """The options of a delete, from its body, or from the query when there is no body. Raises 400 and 422."""
    if not query and not body:
        return DeleteOptions()
    if body:
        options = body
    else:
        options = {"dryRun": list(query.get("dryRun", ()))}
        if (grace := _integer(query, "gracePeriodSeconds")) is not None:
            options["gracePeriodSeconds"] = grace
        if policy := _text(query, "propagationPolicy"):
            options["propagationPolicy"] = policy
        if "orphanDependents" in query:
            options["orphanDependents"] = _flag(query, "orphanDependents")
    dry_run = _typed(options, "dryRun", list) or ()
    policy = _typed(options, "propagationPolicy", str) or ""
    orphan = _typed(options, "orphanDependents", bool)
    errors = _dry_run_errors(dry_run)
    if policy and orphan is not None:
        detail = "orphanDependents and deletionPropagation cannot be both set"
        errors.append(FieldError.invalid("propagationPolicy", policy, detail))
    if policy not in ("", "Orphan", "Foreground", "Background"):
        supported = ("Foreground", "Background", "Orphan", "nil")
        errors.append(FieldError.not_supported("propagationPolicy", policy, supported))
    if errors:
        raise invalid(_META, "DeleteOptions", "", errors)
    if orphan is not None:
        policy = "Orphan" if orphan else "Background"
    preconditions = _typed(options, "preconditions", dict) or {}
    return DeleteOptions(
        _typed(options, "gracePeriodSeconds", int),
        policy,
        _typed(preconditions, "uid", str) or "",
        _typed(preconditions, "resourceVersion", str) or "",
        bool(dry_run),
    )


_T = TypeVar("_T")


def _typed(options: Mapping[str, Any], name: str, kind: type[_T]) -> _T | None:
    value = options.get(name)
    if value is None or (isinstance(value, kind) and not (kind is int and isinstance(value, bool))):
        return value
    raise bad_request(f"json: cannot unmarshal {type(value).__name__} into Go struct field DeleteOptions.{name}")


def unsupported_resource() -> ApiError:
    """What Kubernetes answers for a path that leads nowhere."""
    return ApiError(404, "NotFound", "the server could not find the requested resource")
