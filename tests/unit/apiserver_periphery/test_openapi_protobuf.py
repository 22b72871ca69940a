"""The protobuf form of the OpenAPI document says what the JSON form says, read back by a plain decoder."""

from __future__ import annotations

import json
from typing import Any

from controlplane.apiserver import openapi
from controlplane.apiserver.openapi_proto import encode_document


def fields(message: bytes) -> dict[int, list[Any]]:
    """The fields of a message: varints as numbers, everything else as bytes."""
    found: dict[int, list[Any]] = {}
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        key = varint()
        if key & 7 == 0:
            found.setdefault(key >> 3, []).append(varint())
        else:
            assert key & 7 == 2
            length = varint()
            found.setdefault(key >> 3, []).append(message[at : at + length])
            at += length
    return found


def named_schemas(message: bytes) -> dict[str, bytes]:
    return {fields(one)[1][0].decode(): fields(one)[2][0] for one in fields(message)[1]}


def test_every_definition_and_property_is_there() -> None:
    document = json.loads(openapi.openapi_v2())
    definitions = named_schemas(fields(openapi.openapi_v2_protobuf())[9][0])
    assert definitions.keys() == document["definitions"].keys()
    pod_spec = fields(definitions["io.k8s.api.core.v1.PodSpec"])
    properties = named_schemas(pod_spec[25][0])
    assert properties.keys() == document["definitions"]["io.k8s.api.core.v1.PodSpec"]["properties"].keys()
    assert [name.decode() for name in pod_spec[19]] == ["containers"]
    containers = fields(properties["containers"])
    assert fields(containers[22][0])[1] == [b"array"]
    item = fields(fields(containers[23][0])[1][0])
    assert item[1] == [b"#/definitions/io.k8s.api.core.v1.Container"]


def test_the_kind_of_a_definition_is_an_extension() -> None:
    pod = fields(named_schemas(fields(openapi.openapi_v2_protobuf())[9][0])["io.k8s.api.core.v1.Pod"])
    extensions = {fields(one)[1][0]: fields(fields(one)[2][0])[2][0] for one in pod[31]}
    kinds = json.loads(extensions[b"x-kubernetes-group-version-kind"])
    assert kinds == [{"group": "", "kind": "Pod", "version": "v1"}]


def test_maps_and_booleans_keep_their_values() -> None:
    schemas = {"a": {"type": "object", "additionalProperties": {"type": "string"}}, "b": {"additionalProperties": True}}
    document = {"swagger": "2.0", "info": {"title": "t", "version": "v"}, "definitions": schemas}
    encoded = named_schemas(fields(encode_document(document))[9][0])
    assert fields(fields(fields(fields(encoded["a"])[21][0])[1][0])[22][0])[1] == [b"string"]
    assert fields(fields(encoded["b"])[21][0])[2] == [1]
