"""What `kubectl explain` says of fields."""

from __future__ import annotations

import orjson

from controlplane.apiserver.descriptions import description_of, description_of_model, texts
from controlplane.apiserver.openapi import openapi_v2, openapi_v3
from controlplane.apiserver.openapi_schemas import schema_name
from pyk.api import core_pods
from pyk.api.apps import DaemonSetSpec, DeploymentSpec, StatefulSetSpec
from pyk.api.batch import CronJobSpec, JobSpec
from pyk.api.core_containers import Container
from pyk.api.core_pods import PodSpec
from pyk.api.core_services import ServiceSpec
from pyk.api.kinds import DEPLOYMENT, POD, TABLE


def test_every_sentence_is_of_a_field_that_is_served() -> None:
    fields, models = set(), set()
    for kind in TABLE:
        root = f"apis/{kind.group}/{kind.version}" if kind.group else f"api/{kind.version}"
        schemas = orjson.loads(openapi_v3(root) or b"")["components"]["schemas"]
        for name, schema in schemas.items():
            models.add(name.rpartition(".")[2])
            fields |= {(name.rpartition(".")[2], field) for field in schema.get("properties", ())}
    for text in texts():
        model, _, field = text.partition(".")
        if not field:
            assert model in models, text
            continue
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


def test_every_kind_and_the_fields_that_people_write_are_described() -> None:
    for kind in TABLE:
        assert description_of_model(kind.kind), kind.kind
    for model in (
        PodSpec,
        Container,
        DeploymentSpec,
        StatefulSetSpec,
        DaemonSetSpec,
        JobSpec,
        CronJobSpec,
        ServiceSpec,
    ):
        undescribed = [name for name in model.model_fields if not description_of(model.__name__, name)]
        assert undescribed in ([], ["evictionResponders"]), (model.__name__, undescribed)
