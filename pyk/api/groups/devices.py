"""The group of devices that pods claim, resource.k8s.io."""

from __future__ import annotations

from pyk.api.kind import Kind


def _kind(name: str, plural: str, rules: str, *, namespaced: bool) -> Kind:
    return Kind(
        "resource.k8s.io",
        "v1",
        name,
        plural,
        f"devices:{name}",
        namespaced=namespaced,
        rules_path=f"rules.devices:{rules}",
        has_status=name == "ResourceClaim",
        has_generation=not namespaced,
        returned_when_deleted=True,
    )


KINDS = (
    _kind("DeviceClass", "deviceclasses", "DEVICE_CLASS", namespaced=False),
    _kind("ResourceClaim", "resourceclaims", "RESOURCE_CLAIM", namespaced=True),
    _kind("ResourceClaimTemplate", "resourceclaimtemplates", "RESOURCE_CLAIM_TEMPLATE", namespaced=True),
    _kind("ResourceSlice", "resourceslices", "RESOURCE_SLICE", namespaced=False),
)
