"""The names of resources in quotas and limit ranges, and the quantities that fit them.

Source: `pkg/apis/core/helper/helpers.go` and `pkg/apis/core/validation/resource_quotas.go`.
"""

from __future__ import annotations

from collections.abc import Iterator

from pyk.api import names
from pyk.api.quantity import parse_quantity
from pyk.api.rules.common import AT_LEAST_ZERO
from pyk.api.status import FieldError

COMPUTE = ("cpu", "memory", "ephemeral-storage")
OBJECT_COUNTS = (
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
)
"""Kinds that quotas have always counted under a bare name."""
_QUOTA = {
    *COMPUTE,
    *(f"requests.{name}" for name in (*COMPUTE, "storage")),
    *(f"limits.{name}" for name in COMPUTE),
    *OBJECT_COUNTS,
}
_STANDARD = {*_QUOTA, "storage"}


def _is_huge_page(name: str) -> bool:
    return name.startswith("hugepages-")


def is_quota_name(name: str) -> bool:
    """Whether a bare name is one that quotas know."""
    return name in _QUOTA or _is_huge_page(name) or _is_huge_page(name.removeprefix("requests."))


def check_resource_name(name: str, path: str) -> Iterator[FieldError]:
    """A qualified name, or one of the standard names."""
    if (problem := names.qualified_name(name)) is not None:
        yield FieldError.invalid(path, name, problem)
    elif "/" not in name and not (name in _STANDARD or is_quota_name(name)):
        yield FieldError.invalid(path, name, "must be a standard resource type or fully qualified")


def check_quota_name(name: str, path: str) -> Iterator[FieldError]:
    """A name that a quota may limit."""
    yield from check_resource_name(name, path)
    if "/" not in name and not is_quota_name(name):
        yield FieldError.invalid(path, name, "must be a standard resource for quota")


def check_container_name(name: str, path: str) -> Iterator[FieldError]:
    """A name that a container may request."""
    yield from check_resource_name(name, path)
    if "/" not in name and name not in COMPUTE and not _is_huge_page(name):
        yield FieldError.invalid(path, name, "must be a standard resource for containers")


def check_amount(name: str, quantity: str, path: str) -> Iterator[FieldError]:
    """Not negative, and whole where only whole things can be counted."""
    amount = parse_quantity(quantity)
    if amount < 0:
        yield FieldError.invalid(path, quantity, AT_LEAST_ZERO)
    is_extended = "/" in name and not name.split("/", 1)[0].endswith("kubernetes.io") and not name.startswith("count/")
    if (name in OBJECT_COUNTS or is_extended) and amount.denominator != 1:
        yield FieldError.invalid(path, quantity, "must be an integer")
