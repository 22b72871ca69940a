"""Kinds beyond the first: each is created, listed as a table, changed where it may be, and refused where it may not."""

from __future__ import annotations

from typing import Any

import pytest

TABLE = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}
NAMESPACED = "/namespaces/default"

KINDS: dict[str, tuple[str, dict[str, Any], list[Any]]] = {
    "podtemplates": (
        "/api/v1/namespaces/default",
        {"template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}},
        ["c", "i", "a=b"],
    ),
    "resourcequotas": ("/api/v1/namespaces/default", {"spec": {"hard": {"pods": 2}}}, ["", ""]),
    "limitranges": ("/api/v1/namespaces/default", {"spec": {"limits": [{"type": "Container"}]}}, []),
    "persistentvolumes": (
        "/api/v1",
        {
            "spec": {
                "capacity": {"storage": "1Gi"},
                "accessModes": ["ReadWriteOnce"],
                "hostPath": {"path": "/tmp/x"},
                "storageClassName": "slow",
            }
        },
        ["1Gi", "RWO", "Retain", "Pending", "", "slow", "<unset>", ""],
    ),
    "persistentvolumeclaims": (
        "/api/v1/namespaces/default",
        {"spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}},
        ["Pending", "", "", "", "local", "<unset>"],
    ),
    "endpoints": (
        "/api/v1/namespaces/default",
        {"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}]},
        ["10.0.0.1:80"],
    ),
    "controllerrevisions": ("/apis/apps/v1/namespaces/default", {"data": {"spec": {"a": ["b"]}}}, ["<none>", 0]),
    "priorityclasses": (
        "/apis/scheduling.k8s.io/v1",
        {"value": 1000},
        [1000, False],
    ),
    "podgroups": (
        "/apis/scheduling.k8s.io/v1alpha2/namespaces/default",
        {
            "spec": {
                "podGroupTemplateRef": {"workload": {"workloadName": "w", "podGroupTemplateName": "t"}},
                "schedulingPolicy": {"gang": {"minCount": 3}},
            }
        },
        [],
    ),
    "workloads": (
        "/apis/scheduling.k8s.io/v1alpha2/namespaces/default",
        {
            "spec": {
                "controllerRef": {"apiGroup": "batch", "kind": "Job", "name": "j"},
                "podGroupTemplates": [{"name": "t", "schedulingPolicy": {"basic": {}}}],
            }
        },
        [],
    ),
    "runtimeclasses": ("/apis/node.k8s.io/v1", {"handler": "runc"}, ["runc"]),
    "storageclasses": (
        "/apis/storage.k8s.io/v1",
        {"provisioner": "example.com/disk"},
        ["example.com/disk", "Delete", "Immediate", False],
    ),
    "volumeattributesclasses": (
        "/apis/storage.k8s.io/v1",
        {"driverName": "disk.example.com", "parameters": {"iops": "3000"}},
        ["disk.example.com"],
    ),
    "csidrivers": (
        "/apis/storage.k8s.io/v1",
        {"spec": {}},
        [True, False, False, "<unset>", False, "Persistent"],
    ),
    "csinodes": ("/apis/storage.k8s.io/v1", {"spec": {"drivers": [{"name": "d", "nodeID": "n"}]}}, [1]),
    "csistoragecapacities": (
        "/apis/storage.k8s.io/v1/namespaces/default",
        {"storageClassName": "slow", "capacity": "1Gi"},
        ["slow", "1Gi"],
    ),
    "volumeattachments": (
        "/apis/storage.k8s.io/v1",
        {"spec": {"attacher": "d", "nodeName": "n1", "source": {"persistentVolumeName": "pv"}}},
        ["d", "pv", "n1", False],
    ),
    "ingressclasses": (
        "/apis/networking.k8s.io/v1",
        {"spec": {"controller": "example.com/ingress"}},
        ["example.com/ingress", "<none>"],
    ),
    "deviceclasses": (
        "/apis/resource.k8s.io/v1",
        {"spec": {"selectors": [{"cel": {"expression": "device.driver == 'gpu.example.com'"}}]}},
        [],
    ),
    "resourceclaims": (
        "/apis/resource.k8s.io/v1/namespaces/default",
        {"spec": {"devices": {"requests": [{"name": "gpu", "exactly": {"deviceClassName": "gpu"}}]}}},
        ["pending"],
    ),
    "resourceclaimtemplates": (
        "/apis/resource.k8s.io/v1/namespaces/default",
        {"spec": {"spec": {"devices": {"requests": [{"name": "gpu", "exactly": {"deviceClassName": "gpu"}}]}}}},
        [],
    ),
    "resourceslices": (
        "/apis/resource.k8s.io/v1",
        {
            "spec": {
                "driver": "gpu.example.com",
                "nodeName": "n1",
                "pool": {"name": "n1", "generation": 0, "resourceSliceCount": 1},
                "devices": [
                    {
                        "name": "gpu-0",
                        "attributes": {"model": {"string": "a"}, "numa": {"int": 1}, "ecc": {"bool": False}},
                        "capacity": {"memory": {"value": "80Gi"}},
                    }
                ],
            }
        },
        ["n1", "gpu.example.com", "n1"],
    ),
    "ingresses": (
        "/apis/networking.k8s.io/v1/namespaces/default",
        {"spec": {"defaultBackend": {"service": {"name": "web", "port": {"number": 80}}}}},
        ["<none>", "*", "", "80"],
    ),
    "horizontalpodautoscalers": (
        "/apis/autoscaling/v2/namespaces/default",
        {"spec": {"scaleTargetRef": {"kind": "Deployment", "name": "web", "apiVersion": "apps/v1"}, "maxReplicas": 3}},
        ["Deployment/web", "cpu: <unknown>/80%", "1", 3, 0],
    ),
    "poddisruptionbudgets": (
        "/apis/policy/v1/namespaces/default",
        {"spec": {"minAvailable": "50%", "selector": {"matchLabels": {"a": "b"}}}},
        ["50%", "N/A", 0],
    ),
    "endpointslices": (
        "/apis/discovery.k8s.io/v1/namespaces/default",
        {"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"port": 80}]},
        ["IPv4", "80", "10.0.0.1"],
    ),
}


@pytest.mark.parametrize("plural", KINDS)
async def test_an_object_of_every_kind_is_stored_shown_and_deleted(api: Any, plural: str) -> None:
    root, content, cells = KINDS[plural]
    path = f"{root}/{plural}"
    made = await api("POST", path, {"metadata": {"name": "one"}, **content}, fieldValidation="Strict")
    assert made.status == 201, made.body
    assert (await api("GET", f"{path}/one")).body == made.body
    table = (await api("GET", path, headers=TABLE)).body
    row = next(row["cells"] for row in table["rows"] if row["cells"][0] == "one")
    assert row[1 : 1 + len(cells)] == cells
    again = await api("PUT", f"{path}/one", made.body)
    assert again.body == made.body
    assert (await api("DELETE", f"{path}/one")).status == 200
    if made.body["metadata"].get("finalizers"):  # what protects it while it is in use is a loop's to take off
        free = {"metadata": {"finalizers": None}}
        await api("PATCH", f"{path}/one", free, headers={"Content-Type": "application/merge-patch+json"})
    assert (await api("GET", f"{path}/one")).status == 404


REFUSED = [
    ("resourcequotas", {"spec": {"hard": {"apples": 1}}}, "must be a standard resource type or fully qualified"),
    ("resourcequotas", {"spec": {"hard": {"pods": "-1"}}}, "must be greater than or equal to 0"),
    ("resourcequotas", {"spec": {"hard": {"pods": "1500m"}}}, "must be an integer"),
    (
        "resourcequotas",
        {"spec": {"hard": {"secrets": 1}, "scopes": ["BestEffort"]}},
        "unsupported scope applied to resource",
    ),
    (
        "resourcequotas",
        {"spec": {"scopes": ["BestEffort", "NotBestEffort"]}},
        "conflicting scopes",
    ),
    (
        "limitranges",
        {"spec": {"limits": [{"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}}]}},
        "min value 2 is greater than max value 1",
    ),
    (
        "limitranges",
        {"spec": {"limits": [{"type": "Pod", "default": {"cpu": "2"}}]}},
        "may not be specified when `type` is 'Pod'",
    ),
    ("limitranges", {"spec": {"limits": [{"type": "Pod"}, {"type": "Pod"}]}}, 'Duplicate value: "Pod"'),
    ("priorityclasses", {"value": 1000000001}, "maximum allowed value of a user defined priority is 1000000000"),
    (
        "resourceclaims",
        {"spec": {"devices": {"requests": [{"name": "gpu"}]}}},
        "exactly one of `exactly` or `firstAvailable` is required",
    ),
    (
        "resourceclaims",
        {"spec": {"devices": {"constraints": [{"requests": ["x"], "matchAttribute": "example.com/numa"}]}}},
        'spec.devices.constraints[0].requests[0]: Invalid value: "x"',
    ),
    (
        "resourceslices",
        {"spec": {"driver": "d.example", "pool": {"name": "p", "generation": 0, "resourceSliceCount": 1}}},
        "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required",
    ),
    ("podgroups", {"spec": {"schedulingPolicy": {}}}, "must specify one of: `basic`, `gang`"),
    (
        "podgroups",
        {"spec": {"schedulingPolicy": {"basic": {}, "gang": {"minCount": 1}}}},
        "must specify exactly one of: `basic`, `gang`",
    ),
    (
        "podgroups",
        {"spec": {"schedulingPolicy": {"gang": {"minCount": 0}}}},
        "spec.schedulingPolicy.gang.minCount: Required value",
    ),
    (
        "podgroups",
        {"spec": {"schedulingPolicy": {"gang": {"minCount": -1}}}},
        "must be greater than or equal to 1",
    ),
    ("workloads", {"spec": {"podGroupTemplates": []}}, "spec.podGroupTemplates: Required value"),
    (
        "workloads",
        {"spec": {"podGroupTemplates": [{"name": f"t{n}", "schedulingPolicy": {"basic": {}}} for n in range(9)]}},
        "Too many: 9: must have at most 8 items",
    ),
    (
        "workloads",
        {"spec": {"podGroupTemplates": [{"name": "No_", "schedulingPolicy": {"basic": {}}}]}},
        "a lowercase RFC 1123 label must consist of",
    ),
    ("runtimeclasses", {"handler": "No_"}, "a lowercase RFC 1123 label must consist of"),
    ("storageclasses", {"provisioner": ""}, "provisioner: Required value"),
    (
        "volumeattributesclasses",
        {"parameters": {}},
        "parameters: Required value: must contain at least one key/value pair",
    ),
    ("persistentvolumes", {"spec": {"accessModes": ["ReadWriteOnce"]}}, "must specify a volume type"),
    ("persistentvolumeclaims", {"spec": {}}, "at least 1 access mode is required"),
    (
        "volumeattachments",
        {"spec": {"attacher": "d", "nodeName": "n1", "source": {}}},
        "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
    ),
    ("ingresses", {"spec": {}}, "either `defaultBackend` or `rules` must be specified"),
    ("ingressclasses", {"spec": {"controller": "nothing"}}, "must be a domain-prefixed path"),
    ("endpoints", {"subsets": [{"addresses": [{"ip": "127.0.0.1"}]}]}, "may not be in the loopback range"),
    ("endpointslices", {"addressType": "IPv4", "endpoints": [{"addresses": ["x"]}]}, "must be an IPv4 address"),
    ("controllerrevisions", {"revision": 1}, "data is mandatory"),
    (
        "horizontalpodautoscalers",
        {"spec": {"scaleTargetRef": {"kind": "D", "name": "w"}, "minReplicas": 3, "maxReplicas": 2}},
        "must be greater than or equal to `minReplicas`",
    ),
    (
        "horizontalpodautoscalers",
        {"spec": {"scaleTargetRef": {"kind": "D", "name": "w"}, "maxReplicas": 2, "metrics": [{"type": "Pods"}]}},
        "must populate information for the given metric source",
    ),
    (
        "horizontalpodautoscalers",
        {
            "spec": {
                "scaleTargetRef": {"kind": "D", "name": "w"},
                "maxReplicas": 2,
                "behavior": {"scaleUp": {"stabilizationWindowSeconds": 3601}},
            }
        },
        "must be less than or equal to 3600",
    ),
    ("poddisruptionbudgets", {"spec": {"minAvailable": 1, "maxUnavailable": 1}}, "cannot be both set"),
    ("poddisruptionbudgets", {"spec": {"minAvailable": "101%"}}, "must not be greater than 100%"),
    ("poddisruptionbudgets", {"spec": {"maxUnavailable": -1}}, "must be greater than or equal to 0"),
    ("poddisruptionbudgets", {"spec": {"unhealthyPodEvictionPolicy": "Never"}}, "Unsupported value"),
]


@pytest.mark.parametrize(("plural", "content", "text"), REFUSED)
async def test_what_is_wrong_is_told(api: Any, plural: str, content: dict[str, Any], text: str) -> None:
    answer = await api("POST", f"{KINDS[plural][0]}/{plural}", {"metadata": {"name": "one"}, **content})
    assert answer.status == 422
    assert text in answer.message


UNCHANGEABLE = [
    ("priorityclasses", {"value": 5}, "may not be changed in an update."),
    ("podgroups", {"spec": {"schedulingPolicy": {"gang": {"minCount": 2}}}}, "field is immutable"),
    ("resourceclaims", {"spec": {"devices": None}}, "field is immutable"),
    ("resourceclaimtemplates", {"spec": {"spec": {"devices": None}}}, "field is immutable"),
    ("resourceslices", {"spec": {"driver": "other.example.com"}}, "field is immutable"),
    ("workloads", {"spec": {"controllerRef": None}}, "field is immutable"),
    ("runtimeclasses", {"handler": "crun"}, "field is immutable"),
    ("storageclasses", {"parameters": {"a": "b"}}, "updates to parameters are forbidden."),
    ("volumeattributesclasses", {"driverName": "other.example.com"}, "updates to driverName are forbidden."),
    ("volumeattributesclasses", {"parameters": {"iops": "1"}}, "updates to parameters are forbidden."),
    ("persistentvolumes", {"spec": {"hostPath": {"path": "/other"}}}, "is immutable after creation"),
    (
        "persistentvolumeclaims",
        {"spec": {"accessModes": ["ReadWriteOnce"]}},
        "spec is immutable after creation except resources.requests",
    ),
    ("volumeattachments", {"spec": {"nodeName": "n2"}}, "field is immutable"),
    ("controllerrevisions", {"data": {"other": 1}}, "field is immutable"),
    ("resourcequotas", {"spec": {"scopes": ["BestEffort"]}}, "field is immutable"),
    ("endpointslices", {"addressType": "FQDN"}, "field is immutable"),
    ("csidrivers", {"spec": {"attachRequired": False}}, "field is immutable"),
    ("csistoragecapacities", {"storageClassName": "other"}, "field is immutable"),
]


@pytest.mark.parametrize(("plural", "change", "text"), UNCHANGEABLE)
async def test_what_must_not_change_does_not(api: Any, plural: str, change: dict[str, Any], text: str) -> None:
    root, content, _ = KINDS[plural]
    path = f"{root}/{plural}"
    await api("POST", path, {"metadata": {"name": "one"}, **content})
    answer = await api.patch(f"{path}/one", change)
    assert answer.status == 422
    assert text in answer.message


async def test_a_pod_group_keeps_no_field_of_a_feature_that_is_off_and_its_status_is_its_own(api: Any) -> None:
    path = "/apis/scheduling.k8s.io/v1alpha2/namespaces/default/podgroups"
    spec = {"schedulingPolicy": {"gang": {"minCount": 2}}}
    made = await api(
        "POST", path, {"metadata": {"name": "g"}, "spec": {**spec, "priority": 5, "disruptionMode": "Pod"}}
    )
    assert (made.status, made.body["spec"]) == (201, spec)
    now = "2030-01-01T00:00:00Z"
    condition = {
        "type": "PodGroupScheduled",
        "status": "True",
        "reason": "Scheduled",
        "message": "",
        "lastTransitionTime": now,
    }
    told = await api.patch(f"{path}/g/status", {"status": {"conditions": [condition]}})
    assert told.body["status"]["conditions"] == [condition]
    pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    pod["spec"]["schedulingGroup"] = {"podGroupName": "Not_A_Name"}
    refused = await api("POST", "/api/v1/namespaces/default/pods", pod)
    assert (refused.status, "spec.schedulingGroup.podGroupName: Invalid value" in refused.message) == (422, True)
    pod["spec"]["schedulingGroup"] = {"podGroupName": "g"}
    assert (await api("POST", "/api/v1/namespaces/default/pods", pod)).status == 201
    moved = await api.patch("/api/v1/namespaces/default/pods/p", {"spec": {"schedulingGroup": {"podGroupName": "h"}}})
    assert moved.status == 422


async def test_label_keys_are_in_the_selectors_of_a_stored_pod_and_stay_as_they_were(api: Any) -> None:
    term = {"topologyKey": "zone", "labelSelector": {}, "matchLabelKeys": ["hash"]}
    spread = {**term, "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}
    affinity = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    spec = {"containers": [{"name": "c", "image": "i"}], "affinity": affinity, "topologySpreadConstraints": [spread]}
    path = "/api/v1/namespaces/default/pods"
    made = await api("POST", path, {"metadata": {"name": "p", "labels": {"hash": "1"}}, "spec": spec})
    assert made.status == 201, made.body
    merged = {"matchExpressions": [{"key": "hash", "operator": "In", "values": ["1"]}]}
    (stored,) = made.body["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (constraint,) = made.body["spec"]["topologySpreadConstraints"]
    assert (stored["labelSelector"], constraint["labelSelector"]) == (merged, merged)
    changed = await api.patch(f"{path}/p", {"metadata": {"labels": {"hash": "2"}}})
    assert (changed.status, changed.body["spec"]) == (200, made.body["spec"])


async def test_kubectl_finds_the_priorities_and_the_groups(server: Any, api: Any) -> None:
    status, out, err = await server.kubectl("api-resources", "--api-group=scheduling.k8s.io", "-o", "name")
    assert (status, sorted(out.split())) == (
        0,
        ["podgroups.scheduling.k8s.io", "priorityclasses.scheduling.k8s.io", "workloads.scheduling.k8s.io"],
    ), err
    status, out, err = await server.kubectl("get", "podgroups")
    assert (status, "No resources found" in err) == (0, True), err


NEW_EVENTS, OLD_EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events", "/api/v1/namespaces/default/events"
EVENT = {
    "metadata": {"name": "one", "labels": {"from": "new"}},
    "regarding": {"kind": "Pod", "name": "web", "namespace": "default"},
    "eventTime": "2030-01-01T00:00:00.000000Z",
    "reportingController": "example.com/tester",
    "reportingInstance": "t-1",
    "action": "Testing",
    "reason": "Tested",
    "note": "it went well",
    "type": "Normal",
}


async def test_an_event_is_one_object_in_two_shapes(api: Any) -> None:
    made = (await api("POST", NEW_EVENTS, EVENT)).body
    assert (made["apiVersion"], made["note"], made["regarding"]["name"]) == (
        "events.k8s.io/v1",
        "it went well",
        "web",
    )
    old = (await api("GET", f"{OLD_EVENTS}/one")).body
    assert (old["apiVersion"], old["message"], old["involvedObject"]["name"]) == ("v1", "it went well", "web")
    assert old["reportingComponent"] == "example.com/tester"
    assert old["metadata"]["uid"] == made["metadata"]["uid"]
    assert (await api("GET", f"{NEW_EVENTS}/one")).body == made
    listed = (await api("GET", NEW_EVENTS)).body
    assert (listed["apiVersion"], listed["kind"]) == ("events.k8s.io/v1", "EventList")
    assert listed["items"] == [made]
    table = (await api("GET", NEW_EVENTS, headers=TABLE)).body
    assert table["rows"][0]["cells"][3] == "pod/web"
    assert table["rows"][0]["object"]["metadata"]["name"] == "one"


async def test_each_shape_of_events_has_its_own_field_selectors(api: Any) -> None:
    await api("POST", NEW_EVENTS, EVENT)
    await api("POST", NEW_EVENTS, {**EVENT, "metadata": {"name": "two"}, "regarding": {"namespace": "default"}})
    for path, selector in (
        (NEW_EVENTS, "regarding.kind=Pod,reportingController=example.com/tester"),
        (OLD_EVENTS, "involvedObject.kind=Pod,reportingComponent=example.com/tester"),
    ):
        found = (await api("GET", path, fieldSelector=selector)).body["items"]
        assert [item["metadata"]["name"] for item in found] == ["one"]
    assert (await api("GET", NEW_EVENTS, fieldSelector="involvedObject.kind=Pod")).status == 400


async def test_a_watch_of_new_events_sees_what_is_written_to_the_old_ones(api: Any) -> None:
    async with api.watch(NEW_EVENTS) as events:
        await api("POST", NEW_EVENTS, EVENT)
        kind, seen = await events.next()
        assert (kind, seen["apiVersion"], seen["note"]) == ("ADDED", "events.k8s.io/v1", "it went well")
        await api.patch(f"{OLD_EVENTS}/one", {"metadata": {"labels": {"from": "old"}}})
        kind, seen = await events.next()
        assert (kind, seen["apiVersion"], seen["metadata"]["labels"]) == (
            "MODIFIED",
            "events.k8s.io/v1",
            {"from": "old"},
        )


async def test_a_new_event_is_patched_in_its_own_shape_and_only_its_series_changes(api: Any) -> None:
    await api("POST", NEW_EVENTS, EVENT)
    series = {"count": 3, "lastObservedTime": "2030-01-01T00:00:05.000000Z"}
    patched = await api.patch(f"{NEW_EVENTS}/one", {"series": series}, kind="strategic")
    assert patched.body["series"] == series
    assert (await api("GET", f"{OLD_EVENTS}/one")).body["series"] == series
    refused = await api.patch(f"{NEW_EVENTS}/one", {"note": "something else"})
    assert refused.status == 422
    assert "message" in refused.message


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (f"{NEW_EVENTS}/put", {**EVENT, "metadata": {"name": "put"}}),
        (
            "/apis/coordination.k8s.io/v1/namespaces/default/leases/put",
            {"metadata": {"name": "put"}, "spec": {"holderIdentity": "me"}},
        ),
    ],
)
async def test_a_put_creates_events_and_leases(api: Any, path: str, body: dict[str, Any]) -> None:
    assert (await api("PUT", path, body)).status == 201
    assert (await api("PUT", path, body)).status == 200


async def test_a_put_creates_nothing_else(api: Any) -> None:
    answer = await api("PUT", "/api/v1/namespaces/default/configmaps/put", {"metadata": {"name": "put"}})
    assert answer.status == 404


async def test_a_null_in_a_map_of_texts_is_an_empty_text(api: Any) -> None:
    body = {"metadata": {"name": "nulls", "labels": {"a": None}}, "data": {"k": None, "v": "1"}}
    made = (await api("POST", "/api/v1/namespaces/default/configmaps", body)).body
    assert made["data"] == {"k": "", "v": "1"}
    assert made["metadata"]["labels"] == {"a": ""}


async def test_labels_of_a_deployment_do_not_change_with_its_status(api: Any) -> None:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    body = {
        "metadata": {"name": "d", "labels": {"keep": "me"}},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template},
    }
    path = "/apis/apps/v1/namespaces/default/deployments"
    await api("POST", path, body)
    change = {"metadata": {"labels": {"keep": "not"}}, "status": {"observedGeneration": 1}}
    changed = (await api.patch(f"{path}/d/status", change)).body
    assert (changed["metadata"]["labels"], changed["status"]) == ({"keep": "me"}, {"observedGeneration": 1})


async def test_a_pod_status_without_a_qos_class_keeps_it(api: Any, new_pod: Any) -> None:
    made = (await api("POST", "/api/v1/namespaces/default/pods", new_pod("q"))).body
    answer = await api("PUT", "/api/v1/namespaces/default/pods/q/status", {**made, "status": {"phase": "Running"}})
    assert answer.body["status"] == {"phase": "Running", "qosClass": "BestEffort"}


async def test_an_autoscaler_is_one_object_in_both_versions(api: Any) -> None:
    v1, v2 = (f"/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers" for version in ("v1", "v2"))
    target = {"kind": "Deployment", "name": "web", "apiVersion": "apps/v1"}
    spec = {"scaleTargetRef": target, "maxReplicas": 5, "targetCPUUtilizationPercentage": 60}
    made = await api("POST", v1, {"metadata": {"name": "old"}, "spec": spec}, fieldValidation="Strict")
    assert (made.status, made.body["spec"]) == (201, {**spec, "minReplicas": 1})
    stored = (await api("GET", f"{v2}/old")).body
    [metric] = stored["spec"]["metrics"]
    assert metric["resource"] == {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}}

    memory = {
        "type": "Resource",
        "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}},
    }
    behavior = {"scaleDown": {"stabilizationWindowSeconds": 5}}
    stored["spec"] |= {"metrics": [metric, memory], "behavior": behavior}
    written = (await api("PUT", f"{v2}/old", stored)).body
    shown = (await api("GET", f"{v1}/old")).body
    assert shown["spec"] == {**spec, "minReplicas": 1}
    again = await api("PUT", f"{v1}/old", shown)
    assert again.status == 200
    assert (await api("GET", f"{v2}/old")).body["spec"] == written["spec"], "nothing is lost on the way through v1"


async def test_kubectl_makes_autoscalers_and_disruption_budgets(server: Any, api: Any) -> None:
    labels = {"app": "web"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "a"}]}}
    spec = {"replicas": 2, "selector": {"matchLabels": labels}, "template": template}
    deployments = "/apis/apps/v1/namespaces/default/deployments"
    assert (await api("POST", deployments, {"metadata": {"name": "web"}, "spec": spec})).status == 201
    for words in (
        ("autoscale", "deployment/web", "--min=2", "--max=6", "--cpu=70%", "--memory=100Mi"),
        ("create", "pdb", "web", "--selector=app=web", "--min-available=50%"),
    ):
        status, _, err = await server.kubectl(*words)
        assert status == 0, err
    made = (await api("GET", "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/web")).body["spec"]
    assert (made["minReplicas"], made["maxReplicas"]) == (2, 6)
    targets = {metric["resource"]["name"]: metric["resource"]["target"] for metric in made["metrics"]}
    assert targets == {
        "cpu": {"type": "Utilization", "averageUtilization": 70},
        "memory": {"type": "AverageValue", "averageValue": "100Mi"},
    }
    budget = (await api("GET", "/apis/policy/v1/namespaces/default/poddisruptionbudgets/web")).body["spec"]
    assert budget == {"minAvailable": "50%", "selector": {"matchLabels": {"app": "web"}}}
    status, out, err = await server.kubectl("describe", "hpa", "web")
    assert status == 0, err
    assert "resource cpu on pods  (as a percentage of request)" in out
