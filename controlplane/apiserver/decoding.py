"""From a request's body to an object of a kind: JSON, YAML or protobuf, checked by the kind's model.

What comes out has no unknown field, no null, quantities in canonical form and the model's order of fields. What is
wrong is told as kube-apiserver tells it: text that is no JSON or of the wrong type is a 400 that names the field, an
unknown or doubled field is what the request's `fieldValidation` makes of it (Strict 400, Warn a warning, Ignore
nothing), a missing required field is a 422 with its cause. In `status` a missing scalar is its zero value, as it is for
clients written in Go, which cannot leave such fields out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import orjson
import yaml
from pydantic import ValidationError

from controlplane.apiserver import protobuf
from controlplane.apiserver.jsonwords import json_word, problem_of
from controlplane.apiserver.schema import field_of, struct_at
from pyk.api.base import Model
from pyk.api.meta import LabelSelector
from pyk.api.objects import Object
from pyk.api.remembering import ENTRIES, text_of
from pyk.api.status import ApiError, FieldError, bad_request, invalid

Path = tuple[str | int, ...]

_YAML_NODES = 200_000
"""An alias bomb of a few lines would become gigabytes; no object within the size limit has more values than this."""
_SHOWN_BYTES = 30
_ROUNDS = 32
_EMBEDDED = ("spec", "template", "metadata", "involvedObject")
"""Required structs that Go holds by value: left out, they are empty, and what they lack is told field by field."""
_GO_TYPES = {
    "string_type": "string",
    "int_type": "int64",
    "int_from_float": "int64",
    "int_parsing_size": "int64",
    "greater_than_equal": "int64",
    "less_than_equal": "int64",
    "bool_type": "bool",
    "list_type": "[]",
    "dict_type": "map",
    "model_type": "struct",
    "model_attributes_type": "struct",
    "float_type": "float64",
}

_GO_KINDS = (
    (bool, "bool"),
    (str, "string"),
    (int, "int64"),
    (float, "float64"),
    (list, "slice"),
    (dict, "map"),
)


class _Loader(yaml.CSafeLoader):
    """YAML whose values are JSON's: a date stays the text that it is."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


class WrongType(ApiError):
    """400: a field holds what it cannot.

    `problem` says so in the words of Go's JSON, `converted` in those of Kubernetes' converter of maps.
    """

    def __init__(self, subject: str, problem: str, converted: str) -> None:
        super().__init__(400, "BadRequest", f"{subject}: {problem}")
        self.problem = problem
        self.converted = converted


def unsupported_media_type(accepted: Iterable[str]) -> ApiError:
    return ApiError(
        415,
        "UnsupportedMediaType",
        "the body of the request was in an unknown format - accepted media types include: " + ", ".join(accepted),
    )


def parse_body(body: bytes, content_type: str, kind: str) -> tuple[Object, list[str]]:
    """The document in a body, and the paths of its doubled fields. Raises 400 and 415.

    `kind` is what it should be, for what is said of a body that is nothing of the sort.
    """
    media = content_type.partition(";")[0].strip().lower()
    if media in ("", "application/json", "*/*"):
        try:
            return parse_json(body)
        except ValueError as error:
            raise bad_request(
                f"the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; "
                f"json parse error: {error} ({_summary(body)})"
            ) from None
    if media in ("application/yaml", "application/x-yaml", "text/yaml"):
        try:
            return parse_yaml(body)
        except ValueError as error:
            summary = _summary(body)
            raise bad_request(
                f"the object provided is unrecognized (must be of type {kind}): {error} ({summary})"
            ) from None
    if media == protobuf.MEDIA_TYPE:
        return protobuf.parse_protobuf(body), []
    raise unsupported_media_type(("application/json", "application/yaml", protobuf.MEDIA_TYPE))


def _summary(body: bytes) -> str:
    """How kube-apiserver shows the beginning of a body: as it is when that looks like JSON, else in hexadecimal."""
    if not body:
        return "<empty>"
    more = " ..." if len(body) > _SHOWN_BYTES else ""
    start = body[:_SHOWN_BYTES]
    return (start.decode(errors="replace") if start.startswith(b"{") else start.hex()) + more


def parse_json(body: bytes) -> tuple[Object, list[str]]:
    """The object in a JSON text, and the paths of its doubled fields. Raises ValueError in the words of Go."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise ValueError(problem_of(body)) from None
    if not isinstance(document, dict):
        raise ValueError(
            f"json: cannot unmarshal {json_word(document)} into Go value of type struct "
            '{ APIVersion string "json:\\"apiVersion,omitempty\\""; Kind string "json:\\"kind,omitempty\\"" }'
        )
    # Every name ends in `":`, so a text with more of these than its own meaning has says something twice.
    try:
        names = orjson.dumps(document).count(b'":')
    except orjson.JSONEncodeError:
        raise ValueError("exceeded max depth") from None
    if body.count(b'":') > names:
        return document, sorted(set(_doubled(json.loads(body, object_pairs_hook=_Pairs), "")))
    return document, []


class _Pairs(list[tuple[str, Any]]):
    """The members of a JSON object, doubled ones included."""


def _doubled(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, _Pairs):
        seen = set()
        for key, inside in value:
            where = f"{path}.{key}" if path else key
            if key in seen:
                yield where
            seen.add(key)
            yield from _doubled(inside, where)
    elif isinstance(value, list):
        for index, inside in enumerate(value):
            yield from _doubled(inside, f"{path}[{index}]")


def parse_yaml(body: bytes) -> tuple[Object, list[str]]:
    """The object in a YAML text, and the paths of its doubled fields. Raises ValueError in the words of Go."""
    loader = _Loader(body)
    try:
        node = loader.get_single_node()
        document = _json_value(loader.construct_document(node), [_YAML_NODES]) if node is not None else None
    except yaml.MarkedYAMLError as error:
        raise ValueError(_yaml_words(error)) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"yaml: {' '.join(str(error).split())}") from None
    finally:
        loader.dispose()
    if not isinstance(document, dict):
        word = json_word(document)
        raise ValueError(f"json: cannot unmarshal {word} into Go value of type map[string]interface {{}}")
    return document, list(_doubled_nodes(node, ""))


def _yaml_words(error: yaml.MarkedYAMLError) -> str:
    """What Go's port of libyaml says: lines count from 1, and the first one goes without a number."""
    mark = error.problem_mark or error.context_mark
    line = 0 if mark is None else int(mark.line) + isinstance(error, yaml.scanner.ScannerError)
    return f"yaml: {f'line {line}: ' if line else ''}{error.problem}"


def _doubled_nodes(node: Any, path: str) -> Iterator[str]:
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            where = f"{path}.{key.value}" if path else str(key.value)
            if key.value in seen and key.value != "<<":
                yield where
            seen.add(key.value)
            yield from _doubled_nodes(value, where)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _doubled_nodes(value, f"{path}[{index}]")


def _json_value(value: Any, budget: list[int]) -> Any:
    """A copy with text keys and nothing shared. Raises ValueError for what JSON cannot say or is far too big."""
    budget[0] -= 1
    if budget[0] < 0:
        raise ValueError("the document has too many values")
    if isinstance(value, dict):
        return {_key(key): _json_value(inside, budget) for key, inside in value.items()}
    if isinstance(value, list):
        return [_json_value(inside, budget) for inside in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise ValueError(f"a value of type {type(value).__name__} is no JSON")


def _key(key: Any) -> str:
    if isinstance(key, bool):
        return "true" if key else "false"
    if isinstance(key, str | int | float):
        return str(key)
    raise ValueError("a key must be text")


def conform(
    model: type[Model],
    document: Object,
    *,
    kind: str,
    api_version: str,
    field_validation: str,
    doubled: Sequence[str] = (),
    is_new: bool = False,
    stored: Object | None = None,
    also_wrong: Callable[[Object], Iterable[FieldError]] | None = None,
) -> tuple[Object, list[str]]:
    """The document as the model has it, and warnings. `document` may be changed. Raises 400 and 422 `ApiError`.

    `is_new` is for objects to be created, of which the last ones are remembered: often the next is like them. `stored`
    is the object that the document changes, in the form of the same model: often only one part of it changes.
    `also_wrong` says what else is wrong with a document that lacks required fields, which have Go's zero values there.
    """
    if not doubled:
        known = _like_a_known_one(model, document) if is_new else None
        if stored is not None:
            known = _with_parts_of(model, document, stored)
        if known is not None:
            return known, []
    group, _, version = api_version.rpartition("/")
    problems = [f'duplicate field "{path}"' for path in doubled]
    places: dict[str, int] = {path: place for place, path in enumerate(_paths(document, ""))} if doubled else {}
    lacking: list[Path] = []
    for _ in range(_ROUNDS):
        try:
            found = model.__pydantic_validator__.validate_python(document)
        except ValidationError as error:
            places = places or {path: place for place, path in enumerate(_paths(document, ""))}
            unknown, missing = _repair(model, document, error, f'{kind} in version "{version}"')
            problems.extend(f'unknown field "{path}"' for path in unknown)
            lacking.extend(missing)
            if missing and (also_wrong is None or not all(_set_zero(model, document, path) for path in missing)):
                raise _lacks(group, kind, document, lacking, ()) from None
            continue
        problems.sort(key=lambda problem: places.get(problem.split('"')[1], 0))  # as a reader of the text meets them
        if problems and field_validation == "Strict":
            raise bad_request(
                f'{kind} in version "{version}" cannot be handled as a {kind}: strict decoding error: '
                + ", ".join(problems)
            )
        result: Object = model.__pydantic_serializer__.to_python(found, exclude_none=True, by_alias=True)
        if lacking and also_wrong is not None:
            for path in lacking:
                if struct_at(model, path)[1].model is LabelSelector:
                    _parent(result, path).pop(
                        path[-1], None
                    )  # a pointer in Go: one that is not there is not an empty one
            raise _lacks(group, kind, document, lacking, also_wrong(result))
        return result, problems if field_validation == "Warn" else []
    raise bad_request(f"{kind} cannot be understood: too many errors")


def _lacks(group: str, kind: str, document: Object, lacking: Iterable[Path], others: Iterable[FieldError]) -> ApiError:
    """422 for the fields that a document lacks, those aside which the other errors already speak of."""
    others = list(others)
    told = [f"{error.field}." for error in others]
    names = [name for name in map(dotted, lacking) if not any(other.startswith(f"{name}.") for other in told)]
    # A struct that is lacking is told by what lacks in it.
    outer = [name for name in names if not any(other.startswith(f"{name}.") for other in names if other != name)]
    errors = [*(FieldError.required(name) for name in outer), *others]
    return invalid(group, kind, str((document.get("metadata") or {}).get("name") or ""), errors)


def _set_zero(model: type[Model], document: Object, path: Path) -> bool:
    """Give a missing field the zero value that it has in Go; False when it is not known which."""
    schema = struct_at(model, path)[1]
    zero: Any
    if schema.is_list:
        zero = []
    elif schema.is_map or schema.model is not None:
        zero = {}
    elif schema.named.endswith(".Quantity"):
        zero = "0"
    elif schema.scalar in (str, int, bool) and not schema.named.endswith("Time"):
        zero = schema.scalar()
    else:
        return False
    _parent(document, path)[path[-1]] = zero
    return True


def _like_a_known_one(model: type[Model], document: Object) -> Object | None:
    """The conformed document, by the memory of its like; None when that says nothing or something is wrong."""
    metadata = document.get("metadata")
    if not isinstance(metadata, dict) or (text := text_of(document | {"metadata": {}})) is None:
        return None
    schema = field_of(model, "metadata").model
    try:
        rest = _conformed(model, text)
        if schema is None or rest is None:
            return None
        found = schema.__pydantic_validator__.validate_python(metadata)
    except ValidationError:
        return None
    result: Object = orjson.loads(rest)
    result["metadata"] = schema.__pydantic_serializer__.to_python(found, exclude_none=True, by_alias=True)
    return result


@lru_cache(maxsize=ENTRIES)
def _conformed(model: type[Model], text: bytes) -> bytes | None:
    """The JSON of a document, metadata aside, as the model has it; None when something is wrong with it."""
    try:
        found = model.__pydantic_validator__.validate_python(orjson.loads(text))
    except ValidationError:
        return None
    return orjson.dumps(model.__pydantic_serializer__.to_python(found, exclude_none=True, by_alias=True))


def _with_parts_of(model: type[Model], document: Object, stored: Object) -> Object | None:
    """The conformed document when it shares parts (`spec`, `status`) with a stored object; else None."""
    shared = {}
    for name, value in document.items():
        if name != "metadata" and isinstance(value, dict) and name in stored and not field_of(model, name).is_required:
            # As text, in which the types count too: in Python `true` equals 1.
            text = text_of(value)
            if text is not None and (value is stored[name] or text == text_of(stored[name])):
                shared[name] = text
    if not shared:
        return None
    rest = {name: value for name, value in document.items() if name not in shared}
    try:
        found = model.__pydantic_validator__.validate_python(rest)
    except ValidationError:
        return None
    result: Object = model.__pydantic_serializer__.to_python(found, exclude_none=True, by_alias=True)
    for name, text in shared.items():
        result[name] = orjson.loads(text)
    return result


def _repair(model: type[Model], document: Object, error: ValidationError, subject: str) -> tuple[list[str], list[Path]]:
    """Mend in place what Go would not mind; the unknown fields (removed) and the missing ones. Raises 400."""
    unknown, missing, is_mended = [], [], False
    problems = error.errors(include_url=False, include_context=False)
    for problem in sorted(problems, key=lambda each: str(each["type"]) == "missing"):
        path = problem["loc"]
        if problem["type"] == "extra_forbidden":
            _parent(document, path).pop(path[-1], None)
            unknown.append(dotted(path))
            is_mended = True
        elif problem["type"] == "missing":
            schema = struct_at(model, path)[1]
            if path[-1] in _EMBEDDED:
                _parent(document, path)[path[-1]] = {}
                is_mended = True
            elif path[0] == "status" and schema.scalar in (str, int, bool) and not schema.is_list:
                _parent(document, path)[path[-1]] = schema.scalar()
                is_mended = True
            else:
                missing.append(path)
        elif problem["input"] is None and path and isinstance(path[-1], str):
            if _is_text_of_map(model, path):
                _parent(document, path)[path[-1]] = ""  # as in Go, where such a value cannot be missing
            else:
                _parent(document, path).pop(path[-1], None)  # null is the same as nothing
            is_mended = True
        else:
            raise WrongType(f"{subject} cannot be handled as a {model.__name__}", *_type_error(model, problem))
    return unknown, [] if is_mended else missing


def _paths(value: Any, path: str) -> Iterator[str]:
    """The dotted paths of everything in a document, in its order."""
    if isinstance(value, dict):
        for key, inside in value.items():
            where = f"{path}.{key}" if path else key
            yield where
            yield from _paths(inside, where)
    elif isinstance(value, list):
        for index, inside in enumerate(value):
            yield from _paths(inside, f"{path}[{index}]")


def _is_text_of_map(model: type[Model], path: tuple[str | int, ...]) -> bool:
    """Whether a path leads to the value of a key in a map of texts."""
    schema = struct_at(model, path[:-1])[1] if len(path) > 1 else None
    return schema is not None and schema.is_map and schema.scalar is str and schema.named in ("", "byte")


def _parent(document: Any, path: tuple[str | int, ...]) -> Any:
    for step in path[:-1]:
        document = document[step]
    return document


def dotted(path: Iterable[str | int]) -> str:
    """`spec.containers[0].name`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def _type_error(model: type[Model], problem: Mapping[str, Any]) -> tuple[str, str]:
    """What is wrong with the type of a field: in the words of Go's JSON, and in those of Kubernetes' converter."""
    path, code = problem["loc"], problem["type"]
    if code == "value_error":
        said = f"{dotted(path)}: {problem['msg'].removeprefix('Value error, ')}"
        return said, said
    struct, schema = struct_at(model, path)
    wanted = _GO_TYPES.get(code, code)
    if wanted in ("struct", "[]") and schema.model is not None:
        wanted = f"[]v1.{schema.model.__name__}" if wanted == "[]" else f"v1.{schema.model.__name__}"
    if wanted == "int64":
        wanted = f"int{schema.bits}"
    where = ".".join(step for step in path if isinstance(step, str))
    found = json_word(problem["input"])
    if code in ("greater_than_equal", "less_than_equal", "int_parsing_size"):
        found = f"number {problem['input']}"
    said = f"json: cannot unmarshal {found} into Go struct field {struct.__name__}.{where} of type {wanted}"
    return said, _converter_words(problem["input"], wanted)


def _converter_words(value: Any, wanted: str) -> str:
    """Source: apimachinery `pkg/runtime/converter.go`, which makes objects of maps after a strategic merge."""
    found = next((word for kind, word in _GO_KINDS if isinstance(value, kind)), "invalid")
    if wanted == "map":
        return f"cannot restore map from {found}"
    if wanted.startswith("[]"):
        return f"cannot restore slice from {found}"
    if wanted == "struct" or wanted.startswith("v1."):
        return f"cannot restore struct from: {found}"
    if found in ("int64", "float64") and wanted not in ("bool", "[]"):
        return f"cannot convert {found} to {wanted}"
    return f"unrecognized type: {wanted}"
