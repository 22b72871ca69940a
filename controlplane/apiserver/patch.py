"""Patches: what an object becomes by a JSON patch, a merge patch or a strategic merge patch.

`parse_patch` reads the request once; `Patch.apply` is a pure function from document to document, so that a write that
lost a race can be computed again. Server-side apply, which has state of its own, is in `apply.py`.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from typing import Any, Protocol

import jsonpatch
import jsonpointer
import orjson

from controlplane.apiserver.decoding import WrongType, unsupported_media_type
from controlplane.apiserver.jsonwords import json_word, problem_of
from controlplane.apiserver.strategic import strategic_merge
from pyk.api.base import Model
from pyk.api.objects import Object
from pyk.api.status import ApiError, bad_request

APPLY_PATCH = "application/apply-patch+yaml"
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"
_MOST_OPERATIONS = 10_000
_MOST_COPIED_BYTES = 3 << 20

log = logging.getLogger(__name__)


class Patch(Protocol):
    """A patch that has been read."""

    def apply(self, document: Object) -> Object:
        """The patched document; the given one stays as it is. Raises 400 or 422 `ApiError`."""

    def blamed(self, patched: Object, error: WrongType) -> tuple[str, str]:
        """What is blamed when the patched document has a field of the wrong type, and in which words."""


def parse_patch(body: bytes, content_type: str, model: type[Model]) -> Patch:
    """Read a patch for documents of a model. Raises 400, 413 and 415 `ApiError`."""
    media = content_type.partition(";")[0].strip().lower()
    if media not in (JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH):
        raise unsupported_media_type((JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH, APPLY_PATCH))
    is_operations = media == JSON_PATCH
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise bad_request(("" if is_operations else "error decoding patch: ") + problem_of(body)) from None
    if is_operations:
        return JsonPatch.read(document)
    if not isinstance(document, dict):
        into = "Go value of type map[string]interface {}"
        raise bad_request(f"error decoding patch: json: cannot unmarshal {json_word(document)} into {into}")
    return MergePatch(document) if media == MERGE_PATCH else StrategicMergePatch(document, model)


def names_managers(body: bytes) -> bool:
    """Whether a patch may read or write `managedFields`, so that it has to be given them."""
    return b"managedFields" in body or b"\\" in body  # an escape can spell anything


@dataclass(frozen=True, slots=True)
class JsonPatch:
    """RFC 6902."""

    operations: jsonpatch.JsonPatch

    @staticmethod
    def read(document: Any) -> JsonPatch:
        if not isinstance(document, list):
            raise bad_request(f"json: cannot unmarshal {json_word(document)} into Go value of type jsonpatch.Patch")
        if len(document) > _MOST_OPERATIONS:
            raise ApiError(
                413,
                "RequestEntityTooLarge",
                f"The allowed maximum operations in a JSON patch is {_MOST_OPERATIONS}, got {len(document)}",
            )
        try:
            return JsonPatch(jsonpatch.JsonPatch(document))
        except (jsonpatch.InvalidJsonPatch, jsonpointer.JsonPointerException, TypeError, AttributeError) as error:
            log.debug("a JSON patch that is none: %s", error)
            raise _rejected() from None

    def apply(self, document: Object) -> Object:
        patched: Any = copy.deepcopy(document)
        copied = 0
        try:
            for operation in self.operations.patch:
                if operation.get("op") == "copy":
                    # Each copy can double the document.
                    copied += len(orjson.dumps(jsonpointer.resolve_pointer(patched, operation["from"])))
                    if copied > _MOST_COPIED_BYTES:
                        raise ApiError(413, "RequestEntityTooLarge", "the JSON patch copies more than 3 MiB")
                patched = jsonpatch.JsonPatch([operation]).apply(patched, in_place=True)
        except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException, TypeError, KeyError) as error:
            log.debug("a JSON patch cannot be applied: %s", error)
            raise _rejected() from None
        if not isinstance(patched, dict):
            raise bad_request("the patch leaves no object")
        return patched

    def blamed(self, patched: Object, error: WrongType) -> tuple[str, str]:
        return _json_text(patched), error.problem


def _rejected() -> ApiError:
    """All that Kubernetes tells of a JSON patch that does not fit its document."""
    return ApiError(422, "Invalid", "the server rejected our request due to an error in our request")


def merge(target: Any, patch: Any) -> Any:
    """RFC 7386: the merged value; the target stays as it is."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


@dataclass(frozen=True, slots=True)
class MergePatch:
    """RFC 7386."""

    document: Object

    def apply(self, document: Object) -> Object:
        merged: Object = merge(document, self.document)
        return merged

    def blamed(self, patched: Object, error: WrongType) -> tuple[str, str]:
        return _json_text(patched), error.problem


@dataclass(frozen=True, slots=True)
class StrategicMergePatch:
    """Kubernetes' own, by the merge keys of a model."""

    document: Object
    model: type[Model]

    def apply(self, document: Object) -> Object:
        # A deep copy: the merged document would otherwise share what it took from the patch, and may be computed again.
        return copy.deepcopy(strategic_merge(document, self.document, self.model))

    def blamed(self, patched: Object, error: WrongType) -> tuple[str, str]:
        return _go_text(self.document), error.converted


def _json_text(document: Object) -> str:
    """A document as JSON. Raises RecursionError for one that is nested too deeply to be shown."""
    try:
        return orjson.dumps(document).decode()
    except orjson.JSONEncodeError as error:
        raise RecursionError(str(error)) from None


def _go_text(value: Any) -> str:
    """A value as Go prints it with `%+v`, which is how Kubernetes shows a patch that it merged as a map."""
    if isinstance(value, dict):
        return f"map[{' '.join(f'{key}:{_go_text(value[key])}' for key in sorted(value))}]"
    if isinstance(value, list):
        return f"[{' '.join(map(_go_text, value))}]"
    return "<nil>" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
