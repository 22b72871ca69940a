"""Which pods stand behind a Service, and at which addresses and ports: pure functions.

Source: `staging/src/k8s.io/endpointslice/util` and `utils.go` beside it; Kubernetes' documentation of EndpointSlices
("Conditions").
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from controlplane.controllers.pods import is_ready, is_terminated, node_of
from pyk.api.objects import Object, is_deleting, labels_of, name_of, namespace_of, uid_of
from pyk.api.services import EXTERNAL_NAME, family_of, type_of

Document = dict[str, Any]
Ports = tuple[tuple[str, int, str, str], ...]
"""(name, port, protocol, application protocol) of each port, in the Service's order."""

ZONE_LABEL = "topology.kubernetes.io/zone"


def is_for_pods(service: Object) -> bool:
    """Whether the Service chooses its endpoints among pods."""
    spec = service.get("spec") or {}
    return bool(spec.get("selector")) and type_of(spec) != EXTERNAL_NAME


def selects(service: Object, pod: Object) -> bool:
    selector = (service.get("spec") or {}).get("selector") or {}
    labels = labels_of(pod)
    return bool(selector) and all(labels.get(key) == value for key, value in selector.items())


def addresses_of(pod: Object, family: str) -> list[str]:
    """The pod's addresses of one family."""
    status = pod.get("status") or {}
    found = [each["ip"] for each in status.get("podIPs") or () if each.get("ip")]
    found = found or ([status["podIP"]] if status.get("podIP") else [])
    return [address for address in found if family_of(address) == family]


def ports_of(service: Object, pod: Object) -> Ports:
    """The Service's ports as they are on the pod; a named port that the pod does not have is left out."""
    found = []
    for port in (service.get("spec") or {}).get("ports") or ():
        protocol = port.get("protocol") or "TCP"
        number = _number(pod, port.get("targetPort", port["port"]), protocol)
        if number is not None:
            found.append((port.get("name") or "", number, protocol, port.get("appProtocol") or ""))
    return tuple(found)


def _number(pod: Object, target: int | str, protocol: str) -> int | None:
    if isinstance(target, int):
        return target
    spec = pod.get("spec") or {}
    sidecars = [each for each in spec.get("initContainers") or () if each.get("restartPolicy") == "Always"]
    for container in (*(spec.get("containers") or ()), *sidecars):
        for port in container.get("ports") or ():
            if port.get("name") == target and (port.get("protocol") or "TCP") == protocol:
                return int(port["containerPort"])
    return None


def port_documents(ports: Ports) -> list[Document]:
    """The ports as EndpointSlices and Endpoints have them."""
    return [
        {"name": name, "port": port, "protocol": protocol, **({"appProtocol": application} if application else {})}
        for name, port, protocol, application in ports
    ]


def is_published(service: Object) -> bool:
    """Whether pods count as endpoints before they are ready."""
    return bool((service.get("spec") or {}).get("publishNotReadyAddresses"))


def hostname_of(service: Object, pod: Object) -> str:
    """The pod's own name below the Service's in DNS; empty when it has none there."""
    spec = pod.get("spec") or {}
    is_below = spec.get("subdomain") == name_of(service) and namespace_of(pod) == namespace_of(service)
    return str(spec.get("hostname") or "") if is_below else ""


def reference_to(pod: Object) -> Document:
    return {"kind": "Pod", "namespace": namespace_of(pod), "name": name_of(pod), "uid": uid_of(pod)}


def endpoint_of(service: Object, pod: Object, addresses: list[str], node: Object | None) -> Document:
    """The pod as an endpoint of an EndpointSlice."""
    is_serving, is_terminating = is_ready(pod), is_deleting(pod)
    endpoint: Document = {
        "addresses": addresses,
        "conditions": {
            "ready": is_published(service) or (is_serving and not is_terminating),
            "serving": is_serving,
            "terminating": is_terminating,
        },
        "targetRef": reference_to(pod),
    }
    if node_of(pod):
        endpoint["nodeName"] = node_of(pod)
    if zone := labels_of(node).get(ZONE_LABEL) if node is not None else None:
        endpoint["zone"] = zone
    if hostname := hostname_of(service, pod):
        endpoint["hostname"] = hostname
    return endpoint


def members(
    service: Object, pods: Iterable[Object], nodes: Mapping[str, Object], family: str
) -> dict[Ports, list[Document]]:
    """The endpoints of one family, by their ports. A pod that has ended, has no address yet, or is bound to a node
    that is gone is none."""
    found: dict[Ports, list[Document]] = {}
    for pod in sorted(pods, key=name_of):
        addresses = addresses_of(pod, family)
        node = nodes.get(node_of(pod))
        if is_terminated(pod) or not addresses or (node is None and not is_published(service)):
            continue
        endpoint = endpoint_of(service, pod, addresses[:1], node)
        found.setdefault(ports_of(service, pod), []).append(endpoint)
    return found
