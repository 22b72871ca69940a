"""What `kubectl explain` says of fields."""

from __future__ import annotations

import orjson

from controlplane.apiserver.descriptions import description_of, texts
from controlplane.apiserver.openapi import openapi_v2, openapi_v3
from controlplane.apiserver.openapi_schemas import schema_name
from pyk.api import core_pods
from pyk.api.kinds import DEPLOYMENT, POD, TABLE


def test_every_sentence_is_of_a_field_that_is_served() -> None:
    fields = set()
    for kind in TABLE:
        root = f"apis/{kind.group}/{kind.version}" if kind.group else f"api/{kind.version}"
        schemas = orjson.loads(openapi_v3(root) or b"")["components"]["schemas"]
        for name, schema in schemas.items():
            fields |= {(name.rpartition(".")[2], field) for field in schema.get("properties", ())}
    for text in texts():
        model, _, field = text.partition(".")
        assert (model, field) in fields or (model == "*" and any(field == each for _, each in fields)), text


def test_a_sentence_stands_beside_the_reference_in_the_way_of_each_version() -> None:
    v3 = orjson.loads(openapi_v3("api/v1") or b"")["components"]["schemas"]
    name = schema_name(POD.model)
    spec = v3[name]["properties"]["spec"]
    assert spec == {
        "allOf": [{"$ref": f"#/components/schemas/{schema_name(core_pods.PodSpec)}"}],
        "description": description_of("Pod", "spec"),
    }
    v2 = orjson.loads(openapi_v2())["definitions"]
    assert v2[schema_name(DEPLOYMENT.model)]["properties"]["spec"].keys() == {"$ref", "description"}
    containers = v2[schema_name(core_pods.PodSpec)]["properties"]["containers"]
    assert (containers["description"], containers["x-kubernetes-patch-merge-key"]) == (
        description_of("PodSpec", "containers"),
        "name",
    )


def test_a_field_that_nobody_described_has_the_text_of_all_models_or_none() -> None:
    assert description_of("Pod", "kind") == description_of("", "kind") != ""
    assert description_of("Pod", "nonsense") == ""
