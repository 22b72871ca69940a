"""Discovery, OpenAPI and tables: what clients learn of the API before they use it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from controlplane.apiserver import openapi
from controlplane.apiserver.discovery import discovery_response
from controlplane.apiserver.tables import partial_object, render_partial, render_table, table_event
from pyk.api.kinds import CONFIG_MAP, POD, TABLE
from pyk.reconcile.clock import timestamp

Document = dict[str, Any]
AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
OLDER = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"


def discovered(path: str, accept: str = "application/json") -> tuple[Document, str]:
    found = discovery_response(path, accept)
    assert found is not None
    body, content_type = found
    return json.loads(body), content_type


def test_the_plain_lists_name_every_resource() -> None:
    assert discovered("/api")[0]["versions"] == ["v1"]
    groups = {group["name"]: group for group in discovered("/apis")[0]["groups"]}
    assert set(groups) == {kind.group for kind in TABLE if kind.group}
    assert groups["apps"]["preferredVersion"] == {"groupVersion": "apps/v1", "version": "v1"}
    assert discovered("/apis/apps")[0]["kind"] == "APIGroup"
    listed = set()
    versions = [version["groupVersion"] for group in groups.values() for version in group["versions"]]
    for path in ("/api/v1", *(f"/apis/{version}" for version in versions)):
        document, _ = discovered(path)
        listed |= {(document["groupVersion"], resource["name"]) for resource in document["resources"]}
    for kind in TABLE:
        assert (kind.api_version, kind.plural) in listed
        assert not kind.has_status or (kind.api_version, f"{kind.plural}/status") in listed
        assert kind.scale is None or (kind.api_version, f"{kind.plural}/scale") in listed


def test_a_resource_tells_its_names_scope_and_verbs() -> None:
    resources = {resource["name"]: resource for resource in discovered("/api/v1")[0]["resources"]}
    assert resources["pods"] == {
        "name": "pods",
        "singularName": "pod",
        "namespaced": True,
        "kind": "Pod",
        "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
        "shortNames": ["po"],
        "categories": ["all"],
        "storageVersionHash": "xPOwRZ+Yhw8=",
    }
    assert "deletecollection" not in resources["namespaces"]["verbs"]
    assert resources["pods/log"]["verbs"] == ["get"]
    scale = next(each for each in discovered("/apis/apps/v1")[0]["resources"] if each["name"] == "deployments/scale")
    assert (scale["group"], scale["version"], scale["kind"]) == ("autoscaling", "v1", "Scale")


@pytest.mark.parametrize("accept", [f"{AGGREGATED},{OLDER},application/json", AGGREGATED, f" {AGGREGATED} , */*"])
def test_aggregated_discovery_has_all_resources_in_one_document(accept: str) -> None:
    core, content_type = discovered("/api", accept)
    assert content_type == AGGREGATED
    assert (core["kind"], core["apiVersion"]) == ("APIGroupDiscoveryList", "apidiscovery.k8s.io/v2")
    [group] = core["items"]
    [version] = group["versions"]
    pods = next(resource for resource in version["resources"] if resource["resource"] == "pods")
    assert pods["scope"] == "Namespaced"
    assert pods["responseKind"] == {"group": "", "version": "v1", "kind": "Pod"}
    assert {sub["subresource"] for sub in pods["subresources"]} == {
        "attach",
        "binding",
        "eviction",
        "ephemeralcontainers",
        "exec",
        "log",
        "portforward",
        "proxy",
        "resize",
        "status",
    }
    others, _ = discovered("/apis", accept)
    assert [item["metadata"]["name"] for item in others["items"]] == list(
        dict.fromkeys(kind.group for kind in TABLE if kind.group)
    )


def test_clients_get_the_discovery_they_know() -> None:
    assert discovered("/apis", f"{OLDER},application/json")[1] == OLDER
    for accept in (
        "application/json",
        "*/*",
        "",
        "application/json;g=apidiscovery.k8s.io;v=v9;as=APIGroupDiscoveryList",
    ):
        document, content_type = discovered("/apis", accept)
        assert (document["kind"], content_type) == ("APIGroupList", "application/json")


def test_the_storage_version_hashes_are_those_of_kubernetes() -> None:
    hashes = {
        (document["groupVersion"], resource["name"]): resource.get("storageVersionHash")
        for path in (
            "/api/v1",
            "/apis/apps/v1",
            "/apis/autoscaling/v1",
            "/apis/autoscaling/v2",
            "/apis/events.k8s.io/v1",
        )
        for document in [discovered(path)[0]]
        for resource in document["resources"]
    }
    assert hashes["v1", "configmaps"] == "qFsyl6wFWjQ="
    assert hashes["apps/v1", "deployments"] == "8aSe+NMegvE="
    assert hashes["autoscaling/v1", "horizontalpodautoscalers"] == "qwQve8ut294="  # both versions are stored as v2
    assert hashes["autoscaling/v2", "horizontalpodautoscalers"] == "qwQve8ut294="
    assert hashes["events.k8s.io/v1", "events"] == hashes["v1", "events"] == "r2yiGXH7wu8="
    assert hashes["v1", "componentstatuses"] is None, "nothing of it is stored"
    assert hashes["v1", "pods/log"] is None


def test_the_version_is_one_that_clients_can_read() -> None:
    version, _ = discovered("/version")
    assert (version["major"], version["minor"]) == ("1", "36")
    assert version["gitVersion"].startswith("v1.36.")


@pytest.mark.parametrize("path", ["/", "/apis/nothing", "/apis/apps/v2", "/api/v1/pods", "/apisx"])
def test_other_paths_are_not_discovery(path: str) -> None:
    assert discovery_response(path, "*/*") is None


def references(document: Any) -> set[str]:
    if isinstance(document, dict):
        found = {document["$ref"]} if "$ref" in document else set()
        return found.union(*(references(value) for value in document.values()))
    if isinstance(document, list):
        return set().union(*(references(value) for value in document))
    return set()


def v3(path: str) -> Document:
    body = openapi.openapi_v3(path)
    assert body is not None
    document: Document = json.loads(body)
    return document


def test_the_index_leads_to_every_document() -> None:
    paths = json.loads(openapi.openapi_v3_index())["paths"]
    assert {"api/v1", "apis/apps/v1", "apis/coordination.k8s.io/v1"} <= set(paths)
    assert len(paths) == len({(kind.group, kind.version) for kind in TABLE})
    for root, entry in paths.items():
        assert entry["serverRelativeURL"].startswith(f"/openapi/v3/{root}?hash=")
        assert v3(root)["openapi"].startswith("3.")
    assert openapi.openapi_v3("apis/nothing/v1") is None


def test_every_reference_in_a_document_leads_somewhere() -> None:
    for root in ("api/v1", "apis/apps/v1", "apis/coordination.k8s.io/v1"):
        document = v3(root)
        known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
        assert references(document) <= known
    document = json.loads(openapi.openapi_v2())
    assert references(document) <= {f"#/definitions/{name}" for name in document["definitions"]}


def test_every_kind_has_its_schema_its_list_and_its_paths() -> None:
    for kind in TABLE:
        document = v3(f"apis/{kind.group}/{kind.version}" if kind.group else f"api/{kind.version}")
        named = {
            tuple(about.values())
            for schema in document["components"]["schemas"].values()
            for about in schema.get("x-kubernetes-group-version-kind", ())
        }
        assert (kind.group, kind.version, kind.kind) in named
        namespace = "{namespace}" if kind.namespaced else ""
        if kind.is_question:
            assert set(document["paths"][kind.path(namespace)]) - {"parameters"} == {"post"}
            continue
        assert (kind.group, kind.version, kind.list_kind) in named
        item = document["paths"][kind.path(namespace, "{name}")]
        if kind.is_computed:
            assert set(item) == {"get", "parameters"}
            continue
        assert set(item) == {"get", "put", "patch", "delete", "parameters"}
        assert {"post", "get"} <= set(document["paths"][kind.path(namespace)])


def test_a_patch_tells_that_the_server_validates_fields_and_dry_runs() -> None:
    patch = v3("api/v1")["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"]
    assert patch["x-kubernetes-group-version-kind"] == {"group": "", "version": "v1", "kind": "Pod"}
    assert {"fieldValidation", "dryRun", "fieldManager"} <= {each["name"] for each in patch["parameters"]}
    assert "application/strategic-merge-patch+json" in patch["requestBody"]["content"]


def test_every_parameter_tells_what_it_is_for() -> None:
    document = json.loads(openapi.openapi_v2())
    for path, item in document["paths"].items():
        shared = item.get("parameters", [])
        for method, operation in item.items():
            if method != "parameters":
                for parameter in (*shared, *operation.get("parameters", ())):
                    assert parameter["in"] == "body" or parameter["description"], (path, method, parameter["name"])
    listed = {each["name"]: each for each in document["paths"]["/api/v1/services"]["get"]["parameters"]}
    assert (listed["limit"]["type"], listed["watch"]["type"]) == ("integer", "boolean")
    assert "Watch for changes to the described resources" in listed["watch"]["description"]
    services = document["definitions"]["io.k8s.api.core.v1.ServiceList"]
    assert services["properties"]["items"]["description"] == "List of services."


def test_operation_ids_are_unique() -> None:
    document = json.loads(openapi.openapi_v2())
    names = [
        operation["operationId"]
        for item in document["paths"].values()
        for method, operation in item.items()
        if method != "parameters"
    ]
    assert len(names) == len(set(names))


def test_schemas_tell_how_lists_are_merged() -> None:
    schemas = v3("apis/apps/v1")["components"]["schemas"]
    container = schemas["io.k8s.api.core.v1.Container"]
    assert container["required"] == ["name"]
    ports = container["properties"]["ports"]
    assert ports["x-kubernetes-list-map-keys"] == ["containerPort", "protocol"]
    assert ports["x-kubernetes-patch-merge-key"] == "containerPort"
    assert ports["x-kubernetes-patch-strategy"] == "merge"
    volumes = schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["volumes"]
    assert volumes["x-kubernetes-patch-strategy"] == "merge,retainKeys"
    assert schemas["io.k8s.api.core.v1.Container"]["properties"]["args"]["x-kubernetes-list-type"] == "atomic"
    metadata = schemas["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"]["properties"]
    assert metadata["finalizers"]["x-kubernetes-list-type"] == "set"
    (time,) = metadata["creationTimestamp"]["allOf"]
    assert time["$ref"].endswith("io.k8s.apimachinery.pkg.apis.meta.v1.Time")
    assert metadata["labels"]["additionalProperties"] == {"type": "string"}
    strategy = schemas["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["strategy"]
    assert strategy["x-kubernetes-patch-strategy"] == "retainKeys"


def test_scalars_have_kubernetes_types() -> None:
    schemas = v3("api/v1")["components"]["schemas"]
    limits = schemas["io.k8s.api.core.v1.ResourceRequirements"]["properties"]["limits"]
    assert limits["additionalProperties"]["$ref"].endswith("io.k8s.apimachinery.pkg.api.resource.Quantity")
    port = schemas["io.k8s.api.core.v1.HTTPGetAction"]["properties"]["port"]
    assert port["allOf"][0]["$ref"].endswith("io.k8s.apimachinery.pkg.util.intstr.IntOrString")
    data = schemas["io.k8s.api.core.v1.Secret"]["properties"]["data"]
    assert data["additionalProperties"] == {"type": "string", "format": "byte"}
    micro = schemas["io.k8s.api.core.v1.Event"]["properties"]["eventTime"]
    assert micro["$ref"].endswith("MicroTime")


NOW = 1_750_000_000.0


def config_map(name: str = "a") -> Document:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "resourceVersion": "7", "creationTimestamp": timestamp(NOW - 60)},
        "data": {"k": "v"},
    }


def test_a_list_as_a_table() -> None:
    table = render_table(CONFIG_MAP, [config_map()], now=NOW, resource_version="9", continue_token="t", remaining=3)
    assert (table["kind"], table["apiVersion"]) == ("Table", "meta.k8s.io/v1")
    assert table["metadata"] == {"resourceVersion": "9", "continue": "t", "remainingItemCount": 3}
    assert [column["name"] for column in table["columnDefinitions"]] == ["Name", "Data", "Age"]
    [row] = table["rows"]
    assert row["cells"] == ["a", 1, "60s"]
    assert row["object"] == {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": config_map()["metadata"],
    }


@pytest.mark.parametrize(("include", "expected"), [("Object", config_map()), ("None", None)])
def test_a_row_carries_what_is_asked_for(include: str, expected: Document | None) -> None:
    table = render_table(CONFIG_MAP, [config_map()], now=NOW, include_object=include, resource_version="9")
    assert table["rows"][0].get("object") == expected


def test_only_the_first_event_of_a_watch_defines_the_columns() -> None:
    first = table_event(CONFIG_MAP, config_map(), now=NOW, is_first=True)
    later = table_event(CONFIG_MAP, config_map(), now=NOW, is_first=False)
    assert len(first["columnDefinitions"]) == 3
    assert later["columnDefinitions"] == []
    assert first["rows"] == later["rows"]
    assert later["metadata"] == {"resourceVersion": "7"}


def test_a_bookmark_is_a_table_with_one_empty_row() -> None:
    bookmark = {"metadata": {"resourceVersion": "12", "annotations": {"a": "b"}}}
    table = table_event(POD, bookmark, now=NOW, is_first=True)
    assert table["metadata"]["resourceVersion"] == "12"
    (row,) = table["rows"]
    assert row["object"]["metadata"] == bookmark["metadata"]
    assert not any(row["cells"])
    assert len(row["cells"]) == len(table["columnDefinitions"])


def test_metadata_alone() -> None:
    listed = render_partial([config_map("a"), config_map("b")], resource_version="9")
    assert listed["kind"] == "PartialObjectMetadataList"
    assert listed["metadata"] == {"resourceVersion": "9"}
    assert [item["metadata"]["name"] for item in listed["items"]] == ["a", "b"]
    assert "data" not in partial_object(config_map())


@pytest.mark.parametrize("kind", TABLE, ids=lambda kind: kind.kind)
def test_every_kind_shows_an_object_that_has_next_to_nothing(kind: Any) -> None:
    sparse: Document = {"metadata": {"name": "x"}, "spec": {}, "involvedObject": {}}
    table = render_table(kind, [sparse], now=NOW, resource_version="1")
    assert len(table["rows"][0]["cells"]) == len(table["columnDefinitions"])
