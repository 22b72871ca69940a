"""Which container a request means, which options it may have, and where its node listens: pure functions.

Source: `pkg/registry/core/pod/strategy.go` and the kubelet's `validateContainerLogStatus`, whose sentences these are.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pyk.api.objects import Object, name_of
from pyk.api.rules.common import some
from pyk.api.status import ApiError, FieldError, bad_request, invalid

_AGENT_PORT = 10250
_ADDRESS_TYPES = ("InternalIP", "ExternalIP", "Hostname")
_CONTAINER_LISTS = ("containers", "initContainers", "ephemeralContainers")
_STATUS_LISTS = ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses")
_FLAGS = ("follow", "previous", "timestamps")
_LEAST = {"tailLines": 0, "limitBytes": 1, "sinceSeconds": 1}
_LEAST_WORDS = {0: "must be greater than or equal to 0", 1: "must be greater than 0"}
_WAITING_WORDS = {
    "ErrImagePull": "image can't be pulled",
    "ImagePullBackOff": "trying and failing to pull image",
}


def container_for(pod: Object, wanted: str) -> str:
    """The container that is meant: the wanted one, or the only one. Raises 400."""
    spec = pod["spec"]
    if wanted:
        known = {container["name"] for field in _CONTAINER_LISTS for container in some(spec, field)}
        if wanted not in known:
            raise bad_request(f"container {wanted} is not valid for pod {name_of(pod)}")
        return wanted
    containers = [container["name"] for container in some(spec, "containers")]
    if len(containers) == 1:
        return str(containers[0])
    message = f"a container name must be specified for pod {name_of(pod)}, choose one of: [{' '.join(containers)}]"
    init_containers = [container["name"] for container in some(spec, "initContainers")]
    if init_containers:
        message += f" or one of the init containers: [{' '.join(init_containers)}]"
    raise bad_request(message)


def log_parameters(pod: Object, query: Mapping[str, str]) -> list[tuple[str, str]]:
    """The log options of a request, as the node API takes them. Raises 400 and 422."""
    parameters = [(flag, "true") for flag in _FLAGS if query.get(flag, "").lower() in ("1", "true")]
    errors: list[FieldError] = []
    for name, least in _LEAST.items():
        text = query.get(name, "")
        if not text:
            continue
        try:
            value = int(text)
        except ValueError:
            raise bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax') from None
        if value < least:
            errors.append(FieldError.invalid(name, value, _LEAST_WORDS[least]))
        parameters.append((name, text))
    if query.get("sinceTime"):
        if not _is_time(query["sinceTime"]):
            raise bad_request(f'parsing time "{query["sinceTime"]}": it is not an RFC 3339 time')
        if query.get("sinceSeconds"):
            errors.append(FieldError.forbidden("", "at most one of `sinceTime` or `sinceSeconds` may be specified"))
        parameters.append(("sinceTime", query["sinceTime"]))
    if query.get("stream"):
        parameters.append(("stream", query["stream"]))
    if errors:
        raise invalid("", "PodLogOptions", name_of(pod), errors)
    return parameters


def _is_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def waiting_message(pod: Object, container: str) -> str:
    """Why a container has no logs yet; empty when it has run."""
    for field in _STATUS_LISTS:
        for status in some(pod.get("status"), field):
            if status["name"] != container:
                continue
            waiting = (status.get("state") or {}).get("waiting")
            if waiting is None or (status.get("lastState") or {}).get("terminated"):
                return ""
            reason = waiting.get("reason") or "ContainerCreating"
            words = _WAITING_WORDS.get(reason, reason)
            return f'container "{container}" in pod "{name_of(pod)}" is waiting to start: {words}'
    return f'container "{container}" in pod "{name_of(pod)}" is waiting to start: ContainerCreating'


def node_address(node: Object) -> str:
    """`host:port` of the node API. Raises a 500 `ApiError` when the node reports no address."""
    status: dict[str, Any] = node.get("status") or {}
    endpoint = (status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}
    addresses = some(status, "addresses")
    for kind in _ADDRESS_TYPES:
        for address in addresses:
            if address["type"] == kind:
                host = f"[{address['address']}]" if ":" in address["address"] else address["address"]
                return f"{host}:{endpoint.get('Port') or _AGENT_PORT}"
    raise ApiError(500, "", f"no preferred addresses found; known addresses: {addresses}")
