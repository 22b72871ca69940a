"""Small groups of what a cluster offers: priorities, runtimes, storage, ingresses, endpoints, and the newer Events."""

from __future__ import annotations

from pyk.api.groups import core
from pyk.api.kind import Kind

STORAGE = "storage.k8s.io"
_EVENT = next(kind for kind in core.KINDS if kind.kind == "Event")


def _storage(
    name: str, plural: str, rules: str, *, namespaced: bool = False, short_names: tuple[str, ...] = ()
) -> Kind:
    return Kind(
        STORAGE,
        "v1",
        name,
        plural,
        f"storage:{name}",
        namespaced=namespaced,
        short_names=short_names,
        rules_path=rules,
        has_status=name == "VolumeAttachment",
        returned_when_deleted=name != "CSIStorageCapacity",
    )


KINDS = (
    Kind(
        "events.k8s.io",
        "v1",
        "Event",
        "events",
        "events:Event",
        short_names=("ev",),
        rules_path="rules.events_v1:RULES",
        stored_as=_EVENT,
        conversion_path="rules.events_v1:CONVERSION",
        creates_on_update=True,
    ),
    Kind(
        "scheduling.k8s.io",
        "v1",
        "PriorityClass",
        "priorityclasses",
        "scheduling:PriorityClass",
        namespaced=False,
        short_names=("pc",),
        rules_path="rules.classes:PRIORITY_CLASS",
        has_generation=True,
    ),
    Kind(
        "scheduling.k8s.io",
        "v1alpha2",
        "PodGroup",
        "podgroups",
        "scheduling_groups:PodGroup",
        rules_path="rules.podgroups:POD_GROUP",
        has_status=True,
    ),
    Kind(
        "scheduling.k8s.io",
        "v1alpha2",
        "Workload",
        "workloads",
        "scheduling_groups:Workload",
        rules_path="rules.podgroups:WORKLOAD",
    ),
    Kind(
        "node.k8s.io",
        "v1",
        "RuntimeClass",
        "runtimeclasses",
        "node:RuntimeClass",
        namespaced=False,
        rules_path="rules.classes:RUNTIME_CLASS",
    ),
    _storage("StorageClass", "storageclasses", "rules.classes:STORAGE_CLASS", short_names=("sc",)),
    _storage(
        "VolumeAttributesClass",
        "volumeattributesclasses",
        "rules.classes:VOLUME_ATTRIBUTES_CLASS",
        short_names=("vac",),
    ),
    _storage("CSIDriver", "csidrivers", "rules.csi:CSI_DRIVER"),
    _storage("CSINode", "csinodes", "rules.csi:CSI_NODE"),
    _storage("CSIStorageCapacity", "csistoragecapacities", "rules.csi:CSI_STORAGE_CAPACITY", namespaced=True),
    _storage("VolumeAttachment", "volumeattachments", "rules.csi:VOLUME_ATTACHMENT"),
    Kind(
        "networking.k8s.io",
        "v1",
        "IngressClass",
        "ingressclasses",
        "networking:IngressClass",
        namespaced=False,
        rules_path="rules.ingresses:INGRESS_CLASS",
        has_generation=True,
    ),
    Kind(
        "networking.k8s.io",
        "v1",
        "Ingress",
        "ingresses",
        "networking:Ingress",
        short_names=("ing",),
        rules_path="rules.ingresses:INGRESS",
        has_status=True,
        has_generation=True,
    ),
    Kind(
        "networking.k8s.io",
        "v1",
        "NetworkPolicy",
        "networkpolicies",
        "networking_policies:NetworkPolicy",
        short_names=("netpol",),
        rules_path="rules.networkpolicies:RULES",
        has_generation=True,
    ),
    Kind(
        "networking.k8s.io",
        "v1",
        "ServiceCIDR",
        "servicecidrs",
        "networking_addresses:ServiceCIDR",
        namespaced=False,
        rules_path="rules.service_addresses:SERVICE_CIDR",
        has_status=True,
    ),
    Kind(
        "networking.k8s.io",
        "v1",
        "IPAddress",
        "ipaddresses",
        "networking_addresses:IPAddress",
        namespaced=False,
        short_names=("ip",),
        rules_path="rules.service_addresses:IP_ADDRESS",
        name_check="path_segment",
    ),
    Kind(
        "discovery.k8s.io",
        "v1",
        "EndpointSlice",
        "endpointslices",
        "discovery:EndpointSlice",
        rules_path="rules.endpoints:ENDPOINT_SLICE",
        has_generation=True,
    ),
)
