"""DeviceClass, ResourceClaim, ResourceClaimTemplate and ResourceSlice: what is asked of devices, and what there is.

Source: `pkg/apis/resource/validation/validation.go` and `pkg/apis/resource/v1/defaults.go`. Selectors in CEL are taken
as they are: whoever allocates reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pyk.api import names
from pyk.api.kind import Column, Rules
from pyk.api.objects import Object
from pyk.api.rules.common import (
    AGE,
    NAME,
    check_choice,
    check_conditions,
    check_name,
    check_unchanged,
    check_unique,
    set_default,
    some,
)
from pyk.api.status import FieldError

Document = dict[str, Any]

MOST_REQUESTS = MOST_SELECTORS = MOST_CONSTRAINTS = MOST_CONFIGURATIONS = 32
MOST_ALTERNATIVES, MOST_TOLERATIONS, MOST_CONSUMERS = 8, 16, 256
MOST_DEVICES, MOST_COUNTED_DEVICES, MOST_PROPERTIES, MOST_COUNTER_SETS = 128, 64, 32, 8
LONGEST_DRIVER, LONGEST_VALUE, LONGEST_POOL, LONGEST_EXPRESSION = 63, 64, 253, 10 << 10
_MODES = ("All", "ExactCount")
_EFFECTS = ("NoExecute", "NoSchedule")
_NODE_SELECTIONS = ("nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection")
_NO_REQUEST = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"
_ATTRIBUTE_TYPES = ("bool", "int", "string", "version")


def _check_count(items: list[Any], most: int, path: str) -> Iterator[FieldError]:
    if len(items) > most:
        yield FieldError.too_many(path, len(items), most)


def _check_driver(driver: str, path: str) -> Iterator[FieldError]:
    if len(driver) > LONGEST_DRIVER:
        yield FieldError.too_long(path, f"may not be more than {LONGEST_DRIVER} bytes")
    yield from check_name(lambda name: names.dns_subdomain(name.lower()), path, driver)


def _check_pool(pool: str, path: str) -> Iterator[FieldError]:
    if not pool:
        yield FieldError.required(path)
        return
    if len(pool) > LONGEST_POOL:
        yield FieldError.too_long(path, f"may not be more than {LONGEST_POOL} bytes")
    for part in pool.split("/"):
        if (problem := names.dns_subdomain(part)) is not None:
            yield FieldError.invalid(path, part, problem)


def _check_selectors(holder: Document, path: str) -> Iterator[FieldError]:
    selectors = some(holder, "selectors")
    yield from _check_count(selectors, MOST_SELECTORS, f"{path}.selectors")
    for index, selector in enumerate(selectors):
        where = f"{path}.selectors[{index}]"
        if selector.get("cel") is None:
            yield FieldError.required(f"{where}.cel")
        elif not selector["cel"]["expression"]:
            yield FieldError.required(f"{where}.cel.expression")
        elif len(selector["cel"]["expression"]) > LONGEST_EXPRESSION:
            yield FieldError.too_long(f"{where}.cel.expression", f"may not be more than {LONGEST_EXPRESSION} bytes")


def _check_configuration(configuration: Document, path: str) -> Iterator[FieldError]:
    opaque = configuration.get("opaque")
    if opaque is None:
        yield FieldError.required(f"{path}.opaque")
        return
    yield from _check_driver(opaque["driver"], f"{path}.opaque.driver")
    if not opaque["parameters"]:
        yield FieldError.required(f"{path}.opaque.parameters")


# DeviceClass


def _validate_class(device_class: Object, old: Object | None) -> Iterable[FieldError]:
    spec = device_class["spec"]
    yield from _check_selectors(spec, "spec")
    configurations = some(spec, "config")
    yield from _check_count(configurations, MOST_CONFIGURATIONS, "spec.config")
    for index, configuration in enumerate(configurations):
        yield from _check_configuration(configuration, f"spec.config[{index}]")


DEVICE_CLASS = Rules(validate=_validate_class, columns=(NAME, AGE))


# ResourceClaim and its template


def _default_claim_spec(spec: Document) -> None:
    for request in some(spec.get("devices"), "requests"):
        for asked in (request.get("exactly"), *some(request, "firstAvailable")):
            if asked is None:
                continue
            set_default(asked, "allocationMode", "ExactCount")
            if asked["allocationMode"] == "ExactCount":
                set_default(asked, "count", 1)
            for toleration in some(asked, "tolerations"):
                set_default(toleration, "operator", "Equal")


def _check_asked(asked: Document, path: str) -> Iterator[FieldError]:
    yield from check_name(names.dns_subdomain, f"{path}.deviceClassName", asked["deviceClassName"])
    yield from _check_selectors(asked, path)
    yield from check_choice(asked, path, "allocationMode", _MODES, is_required=True)
    count = asked.get("count")
    if asked.get("allocationMode") == "ExactCount" and (count or 0) <= 0:
        yield FieldError.invalid(f"{path}.count", count or 0, "must be greater than zero")
    if asked.get("allocationMode") == "All" and count:
        yield FieldError.invalid(f"{path}.count", count, "must not be specified when allocationMode is 'All'")
    tolerations = some(asked, "tolerations")
    yield from _check_count(tolerations, MOST_TOLERATIONS, f"{path}.tolerations")
    for index, toleration in enumerate(tolerations):
        where = f"{path}.tolerations[{index}]"
        yield from check_choice(toleration, where, "operator", ("Equal", "Exists"), is_required=True)
        yield from check_choice(toleration, where, "effect", _EFFECTS)
        if toleration.get("operator") == "Exists" and toleration.get("value"):
            yield FieldError.invalid(f"{where}.value", toleration["value"], "must be empty for operator `Exists`")


def _check_request(request: Document, path: str) -> Iterator[FieldError]:
    yield from check_name(names.dns_label, f"{path}.name", request["name"])
    exactly, alternatives = request.get("exactly"), some(request, "firstAvailable")
    if exactly is not None and alternatives:
        yield FieldError.invalid(path, "", "exactly one of `exactly` or `firstAvailable` must be specified")
    elif exactly is not None:
        yield from _check_asked(exactly, f"{path}.exactly")
    elif alternatives:
        yield from _check_count(alternatives, MOST_ALTERNATIVES, f"{path}.firstAvailable")
        yield from check_unique(f"{path}.firstAvailable", alternatives, "name")
        for index, alternative in enumerate(alternatives):
            where = f"{path}.firstAvailable[{index}]"
            yield from check_name(names.dns_label, f"{where}.name", alternative["name"])
            yield from _check_asked(alternative, where)
    else:
        yield FieldError.required(path, "exactly one of `exactly` or `firstAvailable` is required")


def _check_claim_spec(spec: Document, path: str) -> Iterator[FieldError]:
    claim, path = spec.get("devices") or {}, f"{path}.devices"
    requests = some(claim, "requests")
    yield from _check_count(requests, MOST_REQUESTS, f"{path}.requests")
    yield from check_unique(f"{path}.requests", requests, "name")
    known = set()
    for index, request in enumerate(requests):
        yield from _check_request(request, f"{path}.requests[{index}]")
        known.add(request["name"])
        known |= {f"{request['name']}/{each['name']}" for each in some(request, "firstAvailable")}
    constraints, configurations = some(claim, "constraints"), some(claim, "config")
    yield from _check_count(constraints, MOST_CONSTRAINTS, f"{path}.constraints")
    yield from _check_count(configurations, MOST_CONFIGURATIONS, f"{path}.config")
    for field, items in (("constraints", constraints), ("config", configurations)):
        for index, item in enumerate(items):
            for number, name in enumerate(item.get("requests") or ()):
                if name not in known:
                    where = f"{path}.{field}[{index}].requests[{number}]"
                    yield FieldError.invalid(
                        where,
                        name,
                        _NO_REQUEST,
                    )
    for index, constraint in enumerate(constraints):
        if not constraint.get("matchAttribute") and not constraint.get("distinctAttribute"):
            yield FieldError.required(f"{path}.constraints[{index}].matchAttribute")
    for index, configuration in enumerate(configurations):
        yield from _check_configuration(configuration, f"{path}.config[{index}]")


def _default_claim(claim: Object) -> None:
    _default_claim_spec(claim["spec"])


def _validate_claim(claim: Object, old: Object | None) -> Iterable[FieldError]:
    if old is not None:
        yield from check_unchanged("spec", claim["spec"], old["spec"])
        return
    yield from _check_claim_spec(claim["spec"], "spec")


def _validate_claim_status(claim: Object, old: Object | None) -> Iterable[FieldError]:
    status, before = claim.get("status") or {}, (old or {}).get("status") or {}
    allocation, consumers = status.get("allocation"), some(status, "reservedFor")
    if allocation is not None and before.get("allocation") is not None:
        yield from check_unchanged("status.allocation", allocation, before["allocation"])
    yield from _check_count(consumers, MOST_CONSUMERS, "status.reservedFor")
    yield from check_unique("status.reservedFor", consumers, "uid")
    if consumers and allocation is None:
        yield FieldError.forbidden("status.reservedFor", "may not be specified when `allocated` is not set")
    allocated = set()
    for index, result in enumerate(some((allocation or {}).get("devices"), "results")):
        where = f"status.allocation.devices.results[{index}]"
        yield from _check_driver(result["driver"], f"{where}.driver")
        yield from _check_pool(result["pool"], f"{where}.pool")
        yield from check_name(names.dns_label, f"{where}.device", result["device"])
        allocated.add((result["driver"], result["pool"], result["device"], result.get("shareID")))
    for index, device in enumerate(some(status, "devices")):
        where = f"status.devices[{index}]"
        if (device["driver"], device["pool"], device["device"], device.get("shareID")) not in allocated:
            shown = f"{device['driver']}/{device['pool']}/{device['device']}"
            yield FieldError.invalid(where, shown, "must be an allocated device in the claim")
        yield from check_conditions(device, f"{where}.conditions")


def _claim_state(claim: Object, now: float) -> str:
    status = claim.get("status") or {}
    states = [
        state
        for state, holds in (
            ("deleted", claim["metadata"].get("deletionTimestamp")),
            ("allocated", status.get("allocation")),
            ("reserved", status.get("reservedFor")),
        )
        if holds
    ]
    return ",".join(states) if status.get("allocation") else ",".join([*states, "pending"])


RESOURCE_CLAIM = Rules(
    default=_default_claim,
    validate=_validate_claim,
    validate_status=_validate_claim_status,
    columns=(NAME, Column("State", _claim_state), AGE),
)


def _default_template(template: Object) -> None:
    _default_claim_spec(template["spec"]["spec"])


def _validate_template(template: Object, old: Object | None) -> Iterable[FieldError]:
    if old is not None:
        yield from check_unchanged("spec", template["spec"], old["spec"])
        return
    yield from _check_claim_spec(template["spec"]["spec"], "spec.spec")


RESOURCE_CLAIM_TEMPLATE = Rules(default=_default_template, validate=_validate_template, columns=(NAME, AGE))


# ResourceSlice


def _check_device(device: Document, path: str) -> Iterator[FieldError]:
    yield from check_name(names.dns_label, f"{path}.name", device["name"])
    attributes, capacity = device.get("attributes") or {}, device.get("capacity") or {}
    if len(attributes) + len(capacity) > MOST_PROPERTIES:
        yield FieldError.invalid(
            path,
            len(attributes) + len(capacity),
            f"the total number of attributes and capacities must not exceed {MOST_PROPERTIES}",
        )
    for field, properties in (("attributes", attributes), ("capacity", capacity)):
        for name in properties:
            if (problem := names.qualified_name(name)) is not None:
                yield FieldError.invalid(f"{path}.{field}[{name}]", name, problem)
    for name, attribute in attributes.items():
        where, given = f"{path}.attributes[{name}]", [key for key in _ATTRIBUTE_TYPES if attribute.get(key) is not None]
        if not given:
            yield FieldError.required(where, "exactly one value must be specified")
        elif len(given) > 1:
            yield FieldError.invalid(where, ", ".join(given), "exactly one value must be specified")
        for key in ("string", "version"):
            if len(attribute.get(key) or "") > LONGEST_VALUE:
                yield FieldError.too_long(f"{where}.{key}", f"may not be more than {LONGEST_VALUE} bytes")
    for index, taint in enumerate(some(device, "taints")):
        yield from check_name(names.qualified_name, f"{path}.taints[{index}].key", taint["key"])
        yield from check_choice(taint, f"{path}.taints[{index}]", "effect", ("None", *_EFFECTS), is_required=True)


def _validate_slice(resource_slice: Object, old: Object | None) -> Iterable[FieldError]:
    spec = resource_slice["spec"]
    pool = spec["pool"]
    yield from _check_driver(spec["driver"], "spec.driver")
    yield from _check_pool(pool["name"], "spec.pool.name")
    if pool["resourceSliceCount"] <= 0:
        yield FieldError.invalid(
            "spec.pool.resourceSliceCount", pool["resourceSliceCount"], "must be greater than zero"
        )
    if pool["generation"] < 0:
        yield FieldError.invalid("spec.pool.generation", pool["generation"], "must be greater than or equal to zero")
    selected = [field for field in _NODE_SELECTIONS if spec.get(field)]
    either = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
    if not selected:
        yield FieldError.required("spec", either)
    elif len(selected) > 1:
        yield FieldError.invalid("spec", f"{{{', '.join(f'`{field}`' for field in selected)}}}", either)
    devices, counters = some(spec, "devices"), some(spec, "sharedCounters")
    is_counted = any(device.get("taints") or device.get("consumesCounters") for device in devices)
    yield from _check_count(devices, MOST_COUNTED_DEVICES if is_counted else MOST_DEVICES, "spec.devices")
    yield from check_unique("spec.devices", devices, "name")
    for index, device in enumerate(devices):
        yield from _check_device(device, f"spec.devices[{index}]")
    yield from _check_count(counters, MOST_COUNTER_SETS, "spec.sharedCounters")
    yield from check_unique("spec.sharedCounters", counters, "name")
    if devices and counters:
        yield FieldError.invalid("spec", "", "only one of `devices` or `sharedCounters` is allowed")
    if old is not None:
        before = old["spec"]
        yield from check_unchanged("spec.driver", spec["driver"], before["driver"])
        yield from check_unchanged("spec.pool.name", pool["name"], before["pool"]["name"])
        yield from check_unchanged("spec.nodeName", spec.get("nodeName"), before.get("nodeName"))


RESOURCE_SLICE = Rules(
    validate=_validate_slice,
    columns=(
        NAME,
        Column("Node", lambda each, now: each["spec"].get("nodeName") or ""),
        Column("Driver", lambda each, now: each["spec"].get("driver") or ""),
        Column("Pool", lambda each, now: (each["spec"].get("pool") or {}).get("name") or ""),
        AGE,
    ),
    fields={
        "spec.driver": lambda each: str(each["spec"]["driver"]),
        "spec.nodeName": lambda each: str(each["spec"].get("nodeName") or ""),
    },
)
