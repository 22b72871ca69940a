"""Subresources that are objects of their own: `scale` of the workloads and `binding` of pods.

Each is a view: it is read from the object, and a write of it becomes a change of the object.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from controlplane.apiserver.decoding import conform
from controlplane.apiserver.encoding import decode
from controlplane.apiserver.registry import Registry
from controlplane.apiserver.writes import Write
from pyk.api.apps import Scale
from pyk.api.core_pods import Binding
from pyk.api.kinds import Kind, ScalePaths
from pyk.api.objects import Object, is_deleting
from pyk.api.selectors import format_selector, from_document, from_labels
from pyk.api.status import ApiError, FieldError, bad_request, conflict, invalid
from pyk.reconcile.clock import Clock, timestamp

_SCALE_VERSION = "autoscaling/v1"
SCALE = Kind("autoscaling", "v1", "Scale", "scales", "apps:Scale", rules_path="rules.scales:RULES")
"""What a `scale` subresource takes and gives; it is in no collection of its own."""


def _at(obj: Object, path: str) -> Any:
    value: Any = obj
    for step in path.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    return value


def scale_of(kind: Kind, obj: Object) -> Object:
    """The Scale of a workload."""
    paths = kind.scale or ScalePaths()
    metadata = obj["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    status: dict[str, Any] = {"replicas": _at(obj, paths.status_replicas) or 0}
    chosen = _at(obj, paths.selector)
    selector = from_labels(chosen) if paths.selects_labels else from_document(chosen)
    if selector:
        status["selector"] = format_selector(selector)
    return {
        "kind": "Scale",
        "apiVersion": _SCALE_VERSION,
        "metadata": {field: metadata[field] for field in kept if field in metadata},
        "spec": {"replicas": _at(obj, paths.spec_replicas) or 0},
        "status": status,
    }


def with_scale(kind: Kind, obj: Object, scale: Object) -> Object:
    """The workload with the scale's number of replicas. Raises 409 and 422."""
    name = obj["metadata"]["name"]
    given = scale.get("metadata") or {}
    if (given.get("name") or name) != name:
        detail = "must match the name in the request URL"
        error = FieldError.invalid("metadata.name", given["name"], detail)
        raise invalid("autoscaling", "Scale", name, [error])
    replicas = (scale.get("spec") or {}).get("replicas") or 0
    if replicas < 0:
        detail = "must be greater than or equal to 0"
        raise invalid("autoscaling", "Scale", name, [FieldError.invalid("spec.replicas", replicas, detail)])
    *path, last = (kind.scale or ScalePaths()).spec_replicas.split(".")
    place = obj
    for step in path:
        place = place.setdefault(step, {})
    place[last] = replicas
    version = given.get("resourceVersion")
    if version:
        obj["metadata"]["resourceVersion"] = version
    return obj


async def write_scale(
    registry: Registry, write: Write, change: Callable[[Object], Object], doubled: Sequence[str] = ()
) -> Object:
    """Change a workload's scale by a function from Scale to Scale; the new Scale."""

    async def compute(old: Object) -> Object:
        scale, warnings = conform(
            Scale,
            change(scale_of(write.kind, old)),
            kind="Scale",
            api_version=_SCALE_VERSION,
            field_validation=write.options.field_validation,
            doubled=doubled,
        )
        write.warn(warnings)
        new = with_scale(write.kind, copy.deepcopy(old), scale)
        return await registry.finish_update(write, new, old)

    return scale_of(write.kind, decode(await registry.modify(write, compute)))


async def apply_scale(
    registry: Registry, write: Write, document: Object, doubled: Sequence[str], may_create: Callable[[], None]
) -> Object:
    """Apply a workload's scale: the new Scale. What is owned is the workload's field. Raises as `Registry.apply`."""
    kind = write.kind
    if (document.get("apiVersion"), document.get("kind")) != (_SCALE_VERSION, "Scale"):
        raise bad_request(f"Incorrect version specified in apply patch, expected: {_SCALE_VERSION}, Kind=Scale")
    scale, warnings = conform(
        Scale,
        document,
        kind="Scale",
        api_version=_SCALE_VERSION,
        field_validation=write.options.field_validation,
        doubled=doubled,
    )
    write.warn(warnings)
    wanted: Object = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": write.name}}
    if (scale.get("spec") or {}).get("replicas") is not None:
        wanted = with_scale(kind, wanted, scale)
    wire, _ = await registry.apply(write, wanted, (), may_create)
    return scale_of(kind, decode(wire))


async def bind(registry: Registry, write: Write, document: Object, clock: Clock) -> None:
    """Assign a pod to a node, once. Raises 404, 409 when it is assigned or being deleted, and 422 `ApiError`."""
    binding, warnings = conform(
        Binding, document, kind="Binding", api_version="v1", field_validation=write.options.field_validation
    )
    write.warn(warnings)
    metadata = binding.get("metadata") or {}
    if (metadata.get("name") or write.name) != write.name:
        raise bad_request("the name of the object does not match the name on the URL")
    _check_target(write.name, binding["target"])

    async def compute(pod: Object) -> Object:
        uid = metadata.get("uid")
        if uid and uid != pod["metadata"]["uid"]:
            found = pod["metadata"]["uid"]
            raise _refusal(write, f"Precondition failed: UID in precondition: {uid}, UID in object meta: {found}")
        if is_deleting(pod):
            raise _refusal(write, f"pod {write.name} is being deleted, cannot be assigned to a host")
        spec = pod["spec"]
        if spec.get("nodeName"):
            raise _refusal(write, f'pod {write.name} is already assigned to node "{spec["nodeName"]}"')
        if spec.get("schedulingGates"):
            raise _refusal(write, f"pod {write.name} has non-empty .spec.schedulingGates")
        spec["nodeName"] = binding["target"]["name"]
        if annotations := metadata.get("annotations"):
            pod["metadata"]["annotations"] = (pod["metadata"].get("annotations") or {}) | annotations
        _set_scheduled(pod, timestamp(clock.time()))
        pod["status"].pop("nominatedNodeName", None)
        return pod

    await registry.modify(write, compute)


def _refusal(write: Write, message: str) -> ApiError:
    return conflict("", "pods/binding", write.name, message)


def _check_target(name: str, target: dict[str, Any]) -> None:
    errors = []
    if target.get("kind", "") not in ("", "Node"):
        errors.append(FieldError.not_supported("target.kind", target["kind"], ("Node", "<empty>")))
    if not target.get("name"):
        errors.append(FieldError.required("target.name"))
    if errors:
        raise invalid("", "Binding", name, errors)


def _set_scheduled(pod: Object, now: str) -> None:
    status = pod.setdefault("status", {})
    conditions = [condition for condition in status.get("conditions") or () if condition["type"] != "PodScheduled"]
    scheduled = {"type": "PodScheduled", "status": "True", "lastProbeTime": None, "lastTransitionTime": now}
    if generation := pod["metadata"].get("generation"):
        scheduled["observedGeneration"] = generation
    status["conditions"] = [*conditions, scheduled]
