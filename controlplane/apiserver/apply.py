"""Server-side apply: what an object becomes when a manager says what it wants of it, and who owns what then.

`read_apply` reads a request's body; `apply` is a pure function from the live object, its managers and the applied
configuration to the new object and its managers. The configuration is merged into the live object by structure; what
the manager applied before, applies no more and nobody else owns is taken out; what it changes of others' is a conflict,
unless forced. Source: structured-merge-diff `merge/update.go` and apimachinery `pkg/util/managedfields`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from controlplane.apiserver import managedfields
from controlplane.apiserver.decoding import parse_yaml
from controlplane.apiserver.fieldsets import (
    FieldSet,
    difference,
    intersection,
    path_text,
    paths,
    union,
    value_element,
)
from controlplane.apiserver.managedfields import Entry, tracked
from controlplane.apiserver.patch import APPLY_PATCH
from controlplane.apiserver.structure import KEYED, MAP, SET, STRUCT, UNKNOWN_FIELD, Structure, structure_of
from controlplane.apiserver.typed import compared, fields_of, merged, with_parents, without
from pyk.api.kinds import Kind
from pyk.api.objects import Object
from pyk.api.quantity import BadQuantity, canonical_quantity
from pyk.api.status import ApiError, FieldError, bad_request, invalid

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_BEFORE_FIRST_APPLY = "before-first-apply"
_KUBECTL = "kubectl"
_LONGEST_SHOWN = 100
_LONGEST_LAST_APPLIED = 256 * 1024


@dataclass(frozen=True, slots=True)
class Applier:
    """Who applies, by which subresource, and whether it takes what others own. `now` is an RFC 3339 time."""

    manager: str
    subresource: str
    force: bool
    now: str


def is_apply(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == APPLY_PATCH


def check_options(manager: str, force: bool | None, *, applies: bool) -> None:
    """The options of a patch that depend on its content type. Raises 422 `ApiError`."""
    errors = []
    if applies and not manager:
        errors.append(FieldError.required("fieldManager", "is required for apply patch"))
    if not applies and force is not None:
        errors.append(FieldError.forbidden("force", "may not be specified for non-apply patch"))
    if errors:
        raise invalid("meta.k8s.io", "PatchOptions", "", errors)


def read_apply(body: bytes) -> tuple[Object, list[str]]:
    """The applied configuration in a YAML or JSON body, and the paths of its doubled fields. Raises 400 `ApiError`."""
    try:
        document, doubled = parse_yaml(body)
    except ValueError as error:
        raise bad_request(f"error decoding YAML: error converting YAML to JSON: {error}") from None
    try:
        orjson.dumps(document)
    except (orjson.JSONEncodeError, RecursionError) as error:
        raise bad_request(f"error decoding YAML: {error}") from None
    return document, doubled


def configuration(kind: Kind, document: Object, subresource: str) -> Object:
    """The applied configuration as it is merged: of this kind, well typed, less what the subresource does not write.

    Raises 400 `ApiError`.
    """
    _check_kind(kind, document)
    metadata = document.get("metadata")
    if metadata is None:
        metadata = {}
    if isinstance(metadata, dict) and metadata.get("managedFields"):
        raise bad_request("metadata.managedFields must be nil")
    problems: list[str] = []
    whole = {"apiVersion": kind.api_version, "kind": kind.kind, **document, "metadata": metadata}
    typed: Object = _typed(structure_of(kind.model), whole, (), problems)
    if problems:
        shown = ", ".join(problems) if len(problems) == 1 else "errors:\n" + "\n".join(f"  {each}" for each in problems)
        named = metadata if isinstance(metadata, dict) else {}
        place = "/".join(str(named[part])[:_LONGEST_SHOWN] for part in ("namespace", "name") if named.get(part))
        raise bad_request(
            f"failed to create typed patch object ({place}; {kind.api_version}, Kind={kind.kind}): {shown}"
        )
    if subresource == "status":
        kept = ("apiVersion", "kind", "metadata", "status")
        typed = {name: value for name, value in typed.items() if name in kept}
    elif kind.has_status:
        typed.pop("status", None)
    typed["metadata"].pop("managedFields", None)
    return typed


def _check_kind(kind: Kind, document: Object) -> None:
    for name in ("kind", "apiVersion"):
        if not isinstance(document.get(name), str) or not document[name]:
            raise bad_request(f"Object '{name[0].upper()}{name[1:]}' is missing in the applied configuration")
    if document["apiVersion"] != kind.api_version:
        raise bad_request(
            "Incorrect version specified in apply patch. Specified patch version: "
            f"{document['apiVersion'][:200]}, expected: {kind.api_version}"
        )
    if document["kind"] != kind.kind:
        raise bad_request(
            f'{document["kind"][:200]} in version "{kind.version}" cannot be handled as a {kind.kind}: '
            "the kind in the data does not match the expected kind"
        )


def _typed(structure: Structure, value: Any, path: tuple[str, ...], problems: list[str]) -> Any:
    """A copy of an applied value with quantities in canonical form; what has the wrong type is told in `problems`."""
    if value is None:
        return None
    if structure.shape == STRUCT or structure.shape == MAP:
        if not isinstance(value, dict):
            problems.append(f"{path_text(path) or '.'}: expected map, got {_shown(value)}")
            return None
        result = {}
        for name, inside in value.items():
            below = structure.inside(name)
            if below is UNKNOWN_FIELD:
                problems.append(f"{path_text((*path, f'f:{name}'))}: field not declared in schema")
                continue
            result[name] = _typed(below, inside, (*path, f"f:{name}"), problems)
        return result
    if structure.shape == KEYED or structure.shape == SET:
        return _typed_list(structure, value, path, problems)
    return _typed_leaf(structure, value, path, problems)


def _typed_list(structure: Structure, value: Any, path: tuple[str, ...], problems: list[str]) -> Any:
    if not isinstance(value, list):
        problems.append(f"{path_text(path)}: expected list, got {_shown(value)}")
        return None
    result, seen = [], set()
    for index, item in enumerate(value):
        here = (*path, f"i:{index}")
        if structure.shape == SET:
            if isinstance(item, dict | list) or item is None:
                problems.append(f"{path_text(here)}: associative list with values may not have {_shown(item)}")
                continue
            element = value_element(item)
        else:
            assert structure.element is not None
            missing = structure.missing_key(item) if isinstance(item, dict) else ""
            if missing is not None:
                told = (
                    f"associative list with keys has an element that omits key field {_shown(missing)} "
                    "(and doesn't have default value)"
                    if missing
                    else f"expected map, got {_shown(item)}"
                )
                problems.append(f"{path_text(here)}: {told}")
                continue
            if any(isinstance(item.get(key), dict | list) for key in structure.keys):
                problems.append(f"{path_text(here)}: the keys {', '.join(structure.keys)} must be scalars")
                continue
            element = structure.key_of(item)
            item = _typed(structure.element, item, (*path, element), problems)
        if element in seen:
            problems.append(f"{path_text(path)}: duplicate entries for key {path_text((element,))}")
            continue
        seen.add(element)
        result.append(item)
    return result


def _typed_leaf(structure: Structure, value: Any, path: tuple[str, ...], problems: list[str]) -> Any:
    schema = structure.schema
    if schema.is_list or schema.is_map or schema.model is not None:
        wanted = list if schema.is_list else dict
        if not isinstance(value, wanted):
            problems.append(f"{path_text(path)}: expected {'list' if schema.is_list else 'map'}, got {_shown(value)}")
        return value
    if schema.named.endswith(".Quantity") and isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            return canonical_quantity(str(value))
        except BadQuantity:
            return value  # told by the kind's own checks
    if not schema.named:
        if schema.scalar is str and not isinstance(value, str):
            problems.append(f"{path_text(path)}: expected string, got {_shown(value)}")
        elif schema.scalar is bool and not isinstance(value, bool):
            problems.append(f"{path_text(path)}: expected boolean, got {_shown(value)}")
        elif schema.scalar in (int, float) and (isinstance(value, bool) or not isinstance(value, int | float)):
            problems.append(f"{path_text(path)}: expected numeric (int or float), got {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "..."


# The algorithm


def apply(
    kind: Kind, live: Object | None, entries: list[Entry], applied: Object, applier: Applier
) -> tuple[Object, list[Entry]]:
    """The object and its managers after a manager applied a configuration; `live` is None when there is none yet.

    Raises 409 `ApiError` for conflicts. Neither argument is changed.
    """
    if live is None:
        live, entries = {"metadata": {}}, []
    elif not entries:
        # Whoever made the object is not known any more; what it is now is nobody's to change without a conflict.
        entries = managedfields.of_creation(kind, live, _BEFORE_FIRST_APPLY, applier.subresource, applier.now)
    try:
        new, after = _apply(kind, live, entries, applied, applier)
    except _Conflicts as found:
        allowed = _handed_over(kind, live, applied, applier)
        conflicts = {index: difference(fields, allowed) for index, fields in found.fields.items()}
        conflicts = {index: fields for index, fields in conflicts.items() if fields}
        if conflicts:
            raise _refusal([(entries[index], fields) for index, fields in conflicts.items()]) from None
        new, after = _apply(kind, live, entries, applied, replace(applier, force=True))
    return _remembering(new, applied, applier), after


class _Conflicts(Exception):
    """Fields that belong to others, by the index of their entries."""

    def __init__(self, fields: dict[int, FieldSet]) -> None:
        super().__init__()
        self.fields = fields


def _apply(
    kind: Kind, live: Object, entries: list[Entry], applied: Object, applier: Applier
) -> tuple[Object, list[Entry]]:
    structure = structure_of(kind.model)
    wanted = tracked(kind, applied, applier.subresource)
    fields = fields_of(structure, wanted)
    if not fields.get("f:metadata"):  # of a name alone
        fields.pop("f:metadata", None)
    mine, others = None, {}
    for index, each in enumerate(entries):
        if managedfields.is_of(each, applier.manager, "Apply", applier.subresource, kind.api_version):
            mine = each
        else:
            others[index] = each
    configured = {name: value for name, value in applied.items() if name not in ("kind", "apiVersion")}
    new = merged(structure, live, configured)
    if mine is not None:
        new = _pruned(structure, new, mine["fieldsV1"], fields, [each["fieldsV1"] for each in others.values()])
        new = merged(structure, new, configured)  # a list that is applied as empty stays one
    before, after = tracked(kind, live, applier.subresource), tracked(kind, new, applier.subresource)
    changed, removed = compared(structure, before, after)
    conflicts = {}
    for index, each in others.items():
        if both := intersection(each["fieldsV1"], changed):
            conflicts[index] = both
    if conflicts and not applier.force:
        raise _Conflicts(conflicts)
    result: list[Entry] = []
    lost = union(changed, removed)
    for each in others.values():
        result.extend(managedfields.less(each, lost))
    if fields:
        is_same = mine is not None and mine["fieldsV1"] == fields and not changed and not removed
        since = mine.get("time") if is_same and mine is not None else applier.now
        result.append(
            managedfields.entry(applier.manager, "Apply", kind.api_version, applier.subresource, fields, since)
        )
    return new, managedfields.in_order(result)


def _pruned(structure: Structure, new: Object, last: FieldSet, now: FieldSet, others: Sequence[FieldSet]) -> Object:
    """The merged object less what was applied last, is applied no more, and belongs to nobody else."""
    if not difference(last, now):
        return new
    held = now
    for fields in others:
        held = union(held, fields)
    held, last = with_parents(structure, held), with_parents(structure, last)
    if "f:metadata" in last:  # what identifies the object is nobody's, and stays
        last["f:metadata"].pop(".", None)

    def present(value: Object) -> FieldSet:
        return with_parents(structure, fields_of(structure, value))

    everything = present(new)
    left = without(structure, new, last) or {}
    # What somebody owns comes back, and so does what nobody ever applied (a default, say) in what stays.
    left = without(structure, new, difference(difference(everything, present(left)), held)) or {}
    gone = intersection(difference(everything, present(left)), last)
    result: Object = without(structure, new, gone) or {}
    return {"metadata": {}, **result}


def _refusal(conflicts: list[tuple[Entry, FieldSet]]) -> ApiError:
    """409 with a cause for each field, in Kubernetes' words."""
    found = sorted((_owner(each), path_text(path)) for each, fields in conflicts for path in paths(fields))
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {owner}", "field": path} for owner, path in found
    ]
    if len(found) == 1:
        owner, path = found[0]
        message = f"Apply failed with 1 conflict: conflict with {owner}: {path}"
    else:
        message = f"Apply failed with {len(found)} conflicts: " + "\n".join(_by_owner(found))
    return ApiError(409, "Conflict", message, details={"causes": causes})


def _by_owner(found: list[tuple[str, str]]) -> Iterator[str]:
    last = None
    for owner, path in found:
        if owner != last:
            yield f"conflicts with {owner}:"
            last = owner
        yield f"- {path}"


def _owner(each: Entry) -> str:
    text = orjson.dumps(each.get("manager", "")).decode()
    if each.get("subresource"):
        text += f' with subresource "{each["subresource"]}"'
    return f"{text} using {each.get('apiVersion', '')}" if each["operation"] == "Update" else text


# Moving from kubectl's client-side apply


def _handed_over(kind: Kind, live: Object, applied: Object, applier: Applier) -> FieldSet:
    """The fields that kubectl's client-side apply set and nobody changed since: kubectl may take them."""
    text = (live["metadata"].get("annotations") or {}).get(LAST_APPLIED)
    if applier.manager != _KUBECTL or applier.subresource or not text:
        return {}
    try:
        last = configuration(kind, orjson.loads(text), "")
    except (orjson.JSONDecodeError, ApiError, AttributeError):
        return {}
    structure = structure_of(kind.model)
    before, now = tracked(kind, last, ""), tracked(kind, live, "")
    changed, removed = compared(structure, before, now)
    return difference(fields_of(structure, before), union(changed, removed))


def _remembering(new: Object, applied: Object, applier: Applier) -> Object:
    """The object, with kubectl's annotation kept up when it has one, so that client-side apply can follow."""
    annotations = new["metadata"].get("annotations") or {}
    if applier.manager != _KUBECTL or applier.subresource or LAST_APPLIED not in annotations:
        return new
    remembered = orjson.dumps(_plain(applied), option=orjson.OPT_SORT_KEYS).decode() + "\n"
    if len(remembered) > _LONGEST_LAST_APPLIED:
        remembered = ""
    return {**new, "metadata": {**new["metadata"], "annotations": {**annotations, LAST_APPLIED: remembered}}}


def _plain(applied: Object) -> Object:
    plain = copy.deepcopy(applied)
    plain["metadata"].setdefault("annotations", {})
    if isinstance(plain["metadata"]["annotations"], dict):
        plain["metadata"]["annotations"].pop(LAST_APPLIED, None)
    return plain
