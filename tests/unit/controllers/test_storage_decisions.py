"""What the loops of storage decide: which volume a claim gets, what becomes of both, where a local volume is made."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.controllers.storage import ephemeral, protection, provisioner
from controlplane.controllers.storage.binding import decide_claim, decide_volume
from controlplane.controllers.storage.matching import BIND_COMPLETED, PROVISIONER, SELECTED_NODE, best_match, fits
from controlplane.controllers.storage.provisioner import DATA_FINALIZER
from pyk.api.kinds import PERSISTENT_VOLUME_CLAIM
from pyk.reconcile.actions import Action, Create, Emit, Patch

WAITING = {"metadata": {"name": "local"}, "provisioner": "pyk.io/local", "volumeBindingMode": "WaitForFirstConsumer"}
AT_ONCE = {**WAITING, "volumeBindingMode": "Immediate"}


def claim(name: str = "c", size: str = "1Gi", **options: Any) -> dict[str, Any]:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}, **options.pop("spec", {})}
    metadata = {
        "name": name,
        "namespace": "ns",
        "uid": f"uid-{name}",
        "resourceVersion": "1",
        **options.pop("metadata", {}),
    }
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec, **options}


def volume(name: str = "v", size: str = "1Gi", phase: str = "Available", **spec: Any) -> dict[str, Any]:
    full = {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": size}, **spec}
    metadata = {"name": name, "resourceVersion": "1", "labels": {"name": name}}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": metadata,
        "spec": full,
        "status": {"phase": phase},
    }


def told(actions: list[Action]) -> list[str]:
    """Each action in a few words."""
    lines = []
    for action in actions:
        match action:
            case Emit():
                lines.append(f"event {action.reason}")
            case Patch():
                lines.append(f"patch {action.kind.singular} {action.name} {action.subresource}".strip())
            case Create(obj):
                lines.append(f"create {obj['kind']} {obj['metadata']['name']}")
            case _:
                lines.append(str(action))
    return lines


def test_the_smallest_volume_that_fits_is_taken() -> None:
    volumes = [
        volume("large", "9Gi"),
        volume("small", "2Gi"),
        volume("tiny", "1Mi"),
        volume("used", claimRef={"name": "x"}),
    ]
    found = best_match(claim(), volumes, delayed=False)
    assert found is not None
    assert found["metadata"]["name"] == "small"
    named = volume("mine", "9Gi", claimRef={"name": "c", "namespace": "ns"})
    assert best_match(claim(), [*volumes, named], delayed=True) is named
    assert best_match(claim(), volumes, delayed=True) is None


@pytest.mark.parametrize(
    ("wanted", "offered", "fitting"),
    [
        ({}, {}, True),
        ({"accessModes": ["ReadWriteMany"]}, {}, False),
        ({}, {"accessModes": ["ReadWriteOnce", "ReadOnlyMany"]}, True),
        ({"volumeMode": "Block"}, {}, False),
        ({"storageClassName": "a"}, {}, False),
        ({"storageClassName": "a"}, {"storageClassName": "a"}, True),
        ({"selector": {"matchLabels": {"name": "v"}}}, {}, True),
        ({"selector": {"matchLabels": {"name": "w"}}}, {}, False),
    ],
)
def test_modes_class_and_labels_must_fit(wanted: dict[str, Any], offered: dict[str, Any], *, fitting: bool) -> None:
    assert fits(claim(spec=wanted), volume(**offered)) is fitting


def test_binding_is_written_on_the_volume_first_and_on_the_claim_last() -> None:
    steps = told(decide_claim(claim(), [volume()], None, has_consumer=False))
    assert steps == [
        "patch persistentvolume v",
        "patch persistentvolume v status",
        "patch persistentvolumeclaim c",
        "patch persistentvolumeclaim c status",
    ]


def test_an_interrupted_binding_is_completed_and_a_complete_one_left_alone() -> None:
    reference = {"name": "c", "namespace": "ns", "uid": "uid-c"}
    half = volume(phase="Bound", claimRef=reference)
    assert told(decide_claim(claim(), [half], None, has_consumer=False)) == [
        "patch persistentvolumeclaim c",
        "patch persistentvolumeclaim c status",
    ]
    status = {"phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}}
    whole = claim(spec={"volumeName": "v"}, metadata={"annotations": {BIND_COMPLETED: "yes"}}, status=status)
    assert decide_claim(whole, [half], None, has_consumer=True) == []


def test_a_claim_without_its_volume_is_lost() -> None:
    bound = claim(
        spec={"volumeName": "v"}, metadata={"annotations": {BIND_COMPLETED: "yes"}}, status={"phase": "Bound"}
    )
    assert told(decide_claim(bound, [], None, has_consumer=True)) == [
        "event ClaimLost",
        "patch persistentvolumeclaim c status",
    ]
    other = volume(claimRef={"name": "d", "namespace": "ns", "uid": "uid-d"})
    assert told(decide_claim(bound, [other], None, has_consumer=True))[0] == "event ClaimMisbound"


def test_a_claim_that_names_a_volume_gets_that_or_waits() -> None:
    wanting = claim(spec={"volumeName": "v"}, status={"phase": "Pending"})
    assert decide_claim(wanting, [], None, has_consumer=False) == []
    assert told(decide_claim(wanting, [volume()], None, has_consumer=False))[0] == "patch persistentvolume v"
    small = decide_claim(wanting, [volume(size="1Mi")], None, has_consumer=False)
    assert told(small) == ["event VolumeMismatch"]
    taken = volume(claimRef={"name": "d", "namespace": "ns", "uid": "uid-d"})
    assert told(decide_claim(wanting, [taken], None, has_consumer=False)) == ["event FailedBinding"]


@pytest.mark.parametrize(
    ("found", "annotations", "consumer", "steps"),
    [
        (WAITING, {}, False, ["event WaitForFirstConsumer"]),
        (WAITING, {}, True, ["event WaitForPodScheduled"]),
        (WAITING, {SELECTED_NODE: "n"}, True, ["patch persistentvolumeclaim c", "event ExternalProvisioning"]),
        (AT_ONCE, {}, False, ["patch persistentvolumeclaim c", "event ExternalProvisioning"]),
        (AT_ONCE, {PROVISIONER: "pyk.io/local"}, False, ["event ExternalProvisioning"]),
        (None, {}, False, ["event ProvisioningFailed"]),
    ],
)
def test_a_claim_without_a_volume_says_what_it_waits_for(
    found: dict[str, Any] | None, annotations: dict[str, str], *, consumer: bool, steps: list[str]
) -> None:
    waiting = claim(
        spec={"storageClassName": "local"}, metadata={"annotations": annotations}, status={"phase": "Pending"}
    )
    assert told(decide_claim(waiting, [], found, has_consumer=consumer)) == steps


def test_a_volume_is_available_bound_released() -> None:
    reference = {"name": "c", "namespace": "ns", "uid": "uid-c"}
    assert decide_volume(volume(), None) == []
    assert told(decide_volume(volume(phase="Pending"), None)) == ["patch persistentvolume v status"]
    owner = claim(spec={"volumeName": "v"})
    assert told(decide_volume(volume(claimRef=reference), owner)) == ["patch persistentvolume v status"]
    assert decide_volume(volume(phase="Bound", claimRef=reference), owner) == []
    (released,) = decide_volume(volume(phase="Bound", claimRef=reference), None)
    assert isinstance(released, Patch)
    assert released.patch == {"status": {"phase": "Released", "message": None}}
    again = claim(metadata={"uid": "another"}, spec={"volumeName": "v"})
    assert told(decide_volume(volume(phase="Bound", claimRef=reference), again)) == ["patch persistentvolume v status"]
    assert decide_volume(volume(phase="Released", claimRef=reference), None) == []


def test_the_finalizer_goes_only_from_what_is_deleted_and_not_in_use() -> None:
    kind, finalizer = PERSISTENT_VOLUME_CLAIM, protection.CLAIM_FINALIZER
    fresh, kept = claim(), claim(metadata={"finalizers": [finalizer, "other"]})
    (added,) = protection.decide(fresh, kind, finalizer, in_use=False)
    assert isinstance(added, Patch)
    assert added.patch["metadata"]["finalizers"] == [finalizer]  # type: ignore[call-overload]
    assert protection.decide(kept, kind, finalizer, in_use=False) == []
    going = claim(metadata={"finalizers": [finalizer, "other"], "deletionTimestamp": "2026-01-01T00:00:00Z"})
    assert protection.decide(going, kind, finalizer, in_use=True) == []
    (taken,) = protection.decide(going, kind, finalizer, in_use=False)
    assert isinstance(taken, Patch)
    assert taken.patch["metadata"]["finalizers"] == ["other"]  # type: ignore[call-overload]


def node(name: str, *, ready: bool = True, **spec: Any) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": str(ready)}]
    return {"metadata": {"name": name}, "spec": spec, "status": {"conditions": conditions}}


def test_the_node_of_a_local_volume_is_the_scheduler_s_choice_or_the_emptiest() -> None:
    nodes = [node("a"), node("b"), node("c", ready=False), node("d", unschedulable=True)]
    assert provisioner.chosen_node(claim(), WAITING, nodes, {}) is None
    selected = claim(metadata={"annotations": {SELECTED_NODE: "c"}})
    assert provisioner.chosen_node(selected, WAITING, nodes, {}) == "c"
    assert provisioner.chosen_node(claim(), AT_ONCE, nodes, {"a": 2, "b": 1}) == "b"
    assert provisioner.chosen_node(claim(), AT_ONCE, [], {}) is None


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({}, ""),
        ({"accessModes": ["ReadWriteOncePod"]}, ""),
        ({"accessModes": ["ReadWriteOnce", "ReadWriteMany"]}, "access mode ReadWriteMany is not supported"),
        ({"volumeMode": "Block"}, "volumeMode Block is not supported"),
        ({"selector": {"matchLabels": {"a": "b"}}}, "Selector is not supported"),
        ({"dataSource": {"kind": "PersistentVolumeClaim", "name": "x"}}, "dataSource is not supported"),
    ],
)
def test_what_a_directory_cannot_be_is_refused(spec: dict[str, Any], why: str) -> None:
    found = provisioner.refusal(claim(spec=spec))
    assert why in found if why else not found


def test_a_local_volume_is_the_claim_s_on_its_node() -> None:
    made = provisioner.volume_of(claim(), WAITING, "n1", "/there")
    assert made["metadata"]["name"] == "pvc-uid-c"
    assert provisioner.node_of(made) == "n1"
    assert made["spec"]["claimRef"]["uid"] == "uid-c"
    assert made["spec"]["persistentVolumeReclaimPolicy"] == "Delete"


def test_a_volume_that_was_deleted_while_in_use_goes_when_its_claim_and_its_data_are_gone() -> None:
    used = {"uid": "u", "name": "c", "namespace": "ns"}
    deleted = volume(phase="Bound", claimRef=used, persistentVolumeReclaimPolicy="Delete")
    kept = [protection.VOLUME_FINALIZER]
    deleted["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [*kept, DATA_FINALIZER]}
    assert not provisioner.is_over(deleted)
    (released,) = decide_volume(deleted, None)
    assert isinstance(released, Patch)
    assert released.patch == {"status": {"phase": "Released", "message": None}}
    deleted["status"] = {"phase": "Released"}
    assert provisioner.is_over(deleted)
    (freed,) = provisioner.decide_end(deleted)
    assert isinstance(freed, Patch)
    assert freed.patch["metadata"]["finalizers"] == kept
    retained = volume(phase="Released", claimRef=used, persistentVolumeReclaimPolicy="Retain")
    assert not provisioner.is_over(retained)
    retained["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert provisioner.is_over(retained)
    assert not provisioner.is_reclaimed(retained)


def test_a_pod_s_ephemeral_volume_gets_a_claim_that_is_its_own() -> None:
    template = {"spec": {"accessModes": ["ReadWriteOnce"]}, "metadata": {"labels": {"a": "b"}}}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
        "spec": {"volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": template}}]},
    }
    (made,) = ephemeral.decide(pod, lambda name: None)
    assert isinstance(made, Create)
    assert made.obj["metadata"]["name"] == "p-v"
    assert made.obj["metadata"]["ownerReferences"][0]["uid"] == "u"
    assert ephemeral.decide(pod, lambda name: made.obj) == []
    assert told(ephemeral.decide(pod, lambda name: claim("p-v"))) == ["event FailedBinding"]
    assert ephemeral.decide({**pod, "status": {"phase": "Failed"}}, lambda name: None) == []
