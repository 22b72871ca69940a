"""The rules about volumes: where claims let a pod run, and what becomes of claims that wait for it."""

from __future__ import annotations

from typing import Any

from scheduler.volumebinding import PlannedClaim, plan_volumes

Json = dict[str, Any]


def claim(cluster: Any, name: str, *, volume: str = "", modes: str = "ReadWriteOnce", **more: Any) -> None:
    spec = {
        "accessModes": [modes],
        "storageClassName": more.pop("storage_class", "late"),
        "resources": {"requests": {"storage": more.pop("size", "1Gi")}},
        **({"volumeName": volume} if volume else {}),
        **more.pop("spec", {}),
    }
    metadata = {"namespace": "default", "name": name, "uid": f"uid-{name}", **more.pop("metadata", {})}
    status = {"phase": more.pop("phase", "Bound" if volume else "Pending")}
    cluster.storage({"kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec, "status": status})


def volume(cluster: Any, name: str, node: str = "", size: str = "1Gi", **more: Any) -> None:
    spec: Json = {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": "late", **more}
    if node:
        term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}
        spec["nodeAffinity"] = {"required": {"nodeSelectorTerms": [term]}}
    labels = spec.pop("labels", {})
    status = {"phase": spec.pop("phase", "Available")}
    cluster.storage(
        {"kind": "PersistentVolume", "metadata": {"name": name, "labels": labels}, "spec": spec, "status": status}
    )


def storage_class(cluster: Any, name: str, provisioner: str = "kubernetes.io/no-provisioner", **more: Any) -> None:
    mode = more.pop("mode", "WaitForFirstConsumer")
    cluster.storage(
        {
            "kind": "StorageClass",
            "metadata": {"name": name},
            "provisioner": provisioner,
            "volumeBindingMode": mode,
            **more,
        }
    )


def with_claims(*names: str) -> Json:
    return {"volumes": [{"name": f"v{n}", "persistentVolumeClaim": {"claimName": n}} for n in names]}


def nodes(cluster: Any, *names: str) -> None:
    for name in names:
        cluster.node(name, labels={"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": f"zone-{name}"})


def test_a_claim_that_is_not_there_keeps_the_pod_from_all_nodes(cluster: Any) -> None:
    nodes(cluster, "a", "b")
    assert cluster.message(**with_claims("data")) == (
        '0/2 nodes are available: persistentvolumeclaim "data" not found.'
    )


def test_an_ephemeral_volume_waits_for_its_claim(cluster: Any) -> None:
    nodes(cluster, "a")
    message = cluster.message(volumes=[{"name": "scratch", "ephemeral": {}}], name="p")
    told = 'waiting for ephemeral volume controller to create the persistentvolumeclaim "p-scratch"'
    assert message == f"0/1 nodes are available: {told}."


def test_a_lost_or_deleted_claim_is_told(cluster: Any) -> None:
    nodes(cluster, "a")
    claim(cluster, "lost", volume="gone", phase="Lost")
    assert 'persistentvolumeclaim "lost" bound to non-existent persistentvolume "gone"' in cluster.message(
        **with_claims("lost")
    )
    claim(cluster, "old", metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})
    assert 'persistentvolumeclaim "old" is being deleted' in cluster.message(**with_claims("old"))


def test_a_claim_of_an_immediate_class_must_be_bound_first(cluster: Any) -> None:
    nodes(cluster, "a")
    storage_class(cluster, "late", mode="Immediate")
    claim(cluster, "data")
    assert "pod has unbound immediate PersistentVolumeClaims" in cluster.message(**with_claims("data"))


def test_a_bound_claim_leads_the_pod_to_its_volume(cluster: Any) -> None:
    nodes(cluster, "a", "b")
    volume(cluster, "local", node="b", phase="Bound")
    claim(cluster, "data", volume="local")
    assert cluster.schedule(**with_claims("data")).node == "b"
    cluster.snapshot.remove_node("b")
    assert "1 node(s) didn't match PersistentVolume's node affinity" in cluster.message(**with_claims("data"))


def test_a_claim_bound_to_a_volume_that_is_gone(cluster: Any) -> None:
    nodes(cluster, "a")
    claim(cluster, "data", volume="gone")
    told = "1 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
    assert told in cluster.message(**with_claims("data"))


def test_a_waiting_claim_gets_the_smallest_volume_that_the_node_can_have(cluster: Any) -> None:
    nodes(cluster, "a", "b")
    storage_class(cluster, "late")
    volume(cluster, "large", node="b", size="10Gi")
    volume(cluster, "small", node="b", size="2Gi")
    volume(cluster, "tiny", node="a", size="500Mi")
    claim(cluster, "data")
    assert cluster.schedule(**with_claims("data")).node == "b"
    assert plan_volumes(cluster.signature(**with_claims("data")), cluster.snapshot, "b") == [
        PlannedClaim("default/data", "small")
    ]


def test_a_volume_that_is_promised_or_fits_only_one_claim_is_not_given_twice(cluster: Any) -> None:
    nodes(cluster, "a")
    storage_class(cluster, "late")
    volume(cluster, "one", node="a")
    claim(cluster, "x")
    claim(cluster, "y")
    message = "1 node(s) didn't find available persistent volumes to bind"
    assert message in cluster.message(**with_claims("x", "y"))
    cluster.snapshot.storage.promise("one", "default/x")
    assert message in cluster.message(**with_claims("y"))
    assert cluster.schedule(**with_claims("x")).node == "a"


def test_a_class_that_provides_volumes_does_so_where_its_topologies_and_the_selected_node_allow(cluster: Any) -> None:
    nodes(cluster, "a", "b", "c")
    zones = [{"key": "topology.kubernetes.io/zone", "values": ["zone-b", "zone-c"]}]
    storage_class(cluster, "late", provisioner="x/y", allowedTopologies=[{"matchLabelExpressions": zones}])
    selected = {"annotations": {"volume.kubernetes.io/selected-node": "c"}}
    claim(cluster, "free")
    claim(cluster, "fixed", metadata=selected)
    assert cluster.schedule(**with_claims("free")).feasible == 2
    assert cluster.schedule(**with_claims("fixed")).node == "c"
    planned = plan_volumes(cluster.signature(**with_claims("free")), cluster.snapshot, "b")
    assert planned == [PlannedClaim("default/free", "")]


def test_a_claim_for_one_pod_is_used_by_one_pod(cluster: Any) -> None:
    nodes(cluster, "a", "b")
    volume(cluster, "v", phase="Bound", accessModes=["ReadWriteOncePod"])
    claim(cluster, "data", volume="v", modes="ReadWriteOncePod")
    assert cluster.schedule(**with_claims("data")).node
    told = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode"
    assert f"2 {told}" in cluster.message(**with_claims("data"))


def test_a_node_takes_no_more_volumes_than_it_can_attach(cluster: Any) -> None:
    nodes(cluster, "a")
    cluster.storage(
        {
            "kind": "CSINode",
            "metadata": {"name": "a"},
            "spec": {"drivers": [{"name": "d", "allocatable": {"count": 1}}]},
        }
    )
    for name in ("v1", "v2"):
        volume(cluster, name, phase="Bound", csi={"driver": "d", "volumeHandle": name})
        claim(cluster, f"c-{name}", volume=name)
    assert cluster.schedule(**with_claims("c-v1")).node == "a"
    assert cluster.schedule(**with_claims("c-v1")).node == "a"  # the same volume again is not one more
    assert "1 node(s) exceed max volume count" in cluster.message(**with_claims("c-v2"))


def test_a_volume_with_a_zone_label_keeps_the_pod_in_its_zone(cluster: Any) -> None:
    nodes(cluster, "a", "b", "c")
    volume(cluster, "v", phase="Bound", labels={"topology.kubernetes.io/zone": "zone-a__zone-b"})
    claim(cluster, "data", volume="v")
    assert cluster.schedule(**with_claims("data")).feasible == 2


def capacity(cluster: Any, name: str, zone: str | None, **amounts: str) -> None:
    topology = {"nodeTopology": {"matchLabels": {"topology.kubernetes.io/zone": zone}}} if zone else {}
    metadata = {"namespace": "kube-system", "name": name}
    cluster.storage(
        {"kind": "CSIStorageCapacity", "metadata": metadata, "storageClassName": "late", **topology, **amounts}
    )


def test_a_volume_is_made_where_its_driver_has_space_for_it(cluster: Any) -> None:
    nodes(cluster, "a", "b", "c")
    storage_class(cluster, "late", provisioner="x/y")
    capacity(cluster, "in-a", "zone-a", capacity="100Mi")
    capacity(cluster, "in-b", "zone-b", capacity="10Gi")
    capacity(cluster, "in-c", "zone-c", capacity="10Gi", maximumVolumeSize="500Mi")
    capacity(cluster, "nowhere", None, capacity="10Gi")
    claim(cluster, "data")
    assert cluster.schedule(**with_claims("data")).feasible == 3, "the driver does not say that it tells of space"
    cluster.storage({"kind": "CSIDriver", "metadata": {"name": "x/y"}, "spec": {"storageCapacity": True}})
    assert cluster.schedule(**with_claims("data")).node == "b"
    claim(cluster, "large", size="20Gi")
    assert cluster.message(**with_claims("large")) == (
        "0/3 nodes are available: 3 node(s) did not have enough free storage."
    )
    volume(cluster, "there-already", node="a", size="30Gi")
    assert cluster.schedule(**with_claims("large")).node == "a", "a volume that is there needs no space"


def disk(kind: str, **source: Any) -> Json:
    return {"volumes": [{"name": "disk", kind: source}]}


def test_a_disk_is_on_a_node_for_one_writer_or_for_readers(cluster: Any) -> None:
    nodes(cluster, "a")
    told = "0/1 nodes are available: 1 node(s) had no available disk."
    for kind, name in (("gcePersistentDisk", {"pdName": "d"}), ("iscsi", {"iqn": "iqn.2026-01.x:d"})):
        readers = disk(kind, **name, readOnly=True)
        assert cluster.schedule(**readers).node == "a"
        assert cluster.schedule(**readers).node == "a"
        assert cluster.message(**disk(kind, **name)) == told
        assert cluster.schedule(**disk(kind, **{key: f"{value}2" for key, value in name.items()})).node == "a"
    assert cluster.schedule(**disk("awsElasticBlockStore", volumeID="v", readOnly=True)).node == "a"
    assert cluster.message(**disk("awsElasticBlockStore", volumeID="v", readOnly=True)) == told
    cluster.place("a", **disk("rbd", monitors=["m1", "m2"], image="i"))
    assert cluster.message(**disk("rbd", monitors=["m2", "m3"], pool="rbd", image="i", readOnly=True)) == told
    assert cluster.schedule(**disk("rbd", monitors=["m3"], image="i")).node == "a"
