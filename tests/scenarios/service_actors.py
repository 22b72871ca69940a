"""The commands of scenario files about Services: their pods, and the loops that write what stands behind them."""

from __future__ import annotations

import copy
from typing import Any

from controlplane.controllers import loadbalancer, servicecidr
from controlplane.controllers.endpoints import endpoints_loop, mirror_loop, slice_loop
from controlplane.controllers.endpoints.members import selects
from controlplane.controllers.endpoints.slices import MANAGED_BY
from pyk.api.objects import Object, labels_of, name_of
from pyk.reconcile.actions import Action, Create, Delete, Emit, Update, UpdateStatus
from pyk.reconcile.clock import timestamp
from tests.scenarios.world import World

Settings = dict[str, str]
NAMESPACE = "default"


class ServiceActors:
    """What `Actors` can do with them."""

    world: World

    def do_service(self, name: str, settings: Settings) -> list[str]:
        """A Service of the pods `app=NAME`, or a change: `port=80|http families=IPv4,IPv6 type= distribution=`, and
        `headless`, `published`, `unselective`, `gone`."""
        if "gone" in settings:
            self.world.remove("Service", name)
            return []
        known = self.world.get("Service", name)
        metadata = {"name": name, "namespace": NAMESPACE}
        service = copy.deepcopy(known) or {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"selector": {"app": name}, "ports": [{"name": "", "port": 80, "protocol": "TCP"}]},
        }
        spec = service["spec"]
        spec.setdefault("ipFamilies", ["IPv4"])
        if "port" in settings:
            target = settings["port"]
            spec["ports"][0]["targetPort"] = int(target) if target.isdigit() else target
        if "families" in settings:
            spec["ipFamilies"] = settings["families"].split(",")
        for setting, field in {"type": "type", "distribution": "trafficDistribution", "asks": "loadBalancerIP"}.items():
            if setting in settings:
                spec[field] = settings[setting]
        if "headless" in settings:
            spec["clusterIP"] = "None"
        if "published" in settings:
            spec["publishNotReadyAddresses"] = True
        if "unselective" in settings:
            spec.pop("selector", None)
        (self.world.add if known is None else self.world.replace)(service)
        return []

    def do_zone(self, name: str, settings: Settings) -> list[str]:
        """A node in a zone: `zone n1 in=a`; `gone` for one that is gone."""
        if "gone" in settings:
            self.world.remove("Node", name)
            return []
        labels = {"topology.kubernetes.io/zone": settings["in"]} if "in" in settings else {}
        metadata = {"name": name, "labels": labels}
        self.world.add({"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {}})
        return []

    def do_member(self, name: str, settings: Settings) -> list[str]:
        """Pods, all that are named (`a,b`, `w1..w5`), of a Service: `of= on=NODE ip= port=NAME:NUMBER hostname=`, and
        `ready`, `unready`, `leaving`, `ended`, `gone`."""
        for number, each in enumerate(_names(name)):
            self._member(each, settings, number)
        return []

    def _member(self, name: str, settings: Settings, number: int) -> None:
        if "gone" in settings:
            self.world.remove("Pod", name)
            return
        known = self.world.get("Pod", name)
        labels = {"app": settings.get("of", "")}
        pod = copy.deepcopy(known) or {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
            "spec": {"containers": [{"name": "main"}]},
            "status": {},
        }
        if "on" in settings:
            pod["spec"]["nodeName"] = settings["on"]
        if "ip" in settings:
            first, *rest = settings["ip"].split(",")
            head, _, last = first.rpartition(".")
            addresses = [f"{head}.{int(last) + number}", *rest]
            pod["status"] |= {"podIP": addresses[0], "podIPs": [{"ip": address} for address in addresses]}
        if "port" in settings:
            port, _, target = settings["port"].partition(":")
            pod["spec"]["containers"][0]["ports"] = [{"name": port, "containerPort": int(target)}]
        if "hostname" in settings:
            pod["spec"] |= {"hostname": settings["hostname"], "subdomain": labels["app"]}
        if "ready" in settings or "unready" in settings:
            status = "True" if "ready" in settings else "False"
            pod["status"]["conditions"] = [{"type": "Ready", "status": status}]
        if "ended" in settings:
            pod["status"]["phase"] = "Failed"
        if "leaving" in settings:
            pod["metadata"]["deletionTimestamp"] = timestamp(self.world.now)
        (self.world.add if known is None else self.world.replace)(pod)

    def _selected(self, service: Object | None) -> list[Object]:
        return [pod for pod in self.world.all("Pod") if service is not None and selects(service, pod)]

    def _ours(self, manager: str) -> list[Object]:
        return [each for each in self.world.all("EndpointSlice") if labels_of(each).get(MANAGED_BY) == manager]

    def do_slice(self, name: str, settings: Settings) -> list[str]:
        """The EndpointSlice loop takes one step for a Service. With `count` the slices are told by their sizes."""
        nodes = {name_of(node): node for node in self.world.all("Node")}
        service = self.world.find("Service", name)
        existing = self._ours(slice_loop.MANAGER)
        actions = slice_loop.decide(service, self._selected(service), nodes, existing)
        return self._written(actions, is_counted="count" in settings)

    def do_list_endpoints(self, name: str, settings: Settings) -> list[str]:
        """The Endpoints loop takes one step for a Service."""
        service = self.world.get("Service", name)
        return self._written(endpoints_loop.decide(service, self._selected(service), self.world.get("Endpoints", name)))

    def do_addresses(self, name: str, settings: Settings) -> list[str]:
        """Somebody writes Endpoints by hand: `ready=IP,IP other=IP`, `skipped`, `gone`."""
        if "gone" in settings:
            self.world.remove("Endpoints", name)
            return []
        subset: dict[str, Any] = {"ports": [{"name": "", "port": 5432, "protocol": "TCP"}]}
        for setting, field in {"ready": "addresses", "other": "notReadyAddresses"}.items():
            if setting in settings:
                subset[field] = [{"ip": address} for address in settings[setting].split(",")]
        labels = {mirror_loop.SKIP: "true"} if "skipped" in settings else {}
        metadata = {"name": name, "namespace": NAMESPACE, "labels": labels}
        endpoints = {"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": [subset]}
        known = self.world.get("Endpoints", name)
        if known is not None:
            endpoints["metadata"] = {**known["metadata"], "labels": labels}
        (self.world.add if known is None else self.world.replace)(endpoints)
        return []

    def do_mirror(self, name: str, settings: Settings) -> list[str]:
        """The mirroring loop takes one step."""
        existing = self._ours(mirror_loop.MANAGER)
        endpoints, service = self.world.get("Endpoints", name), self.world.get("Service", name)
        return self._written(mirror_loop.decide(endpoints, service, existing))

    def do_range(self, name: str, settings: Settings) -> list[str]:
        """A ServiceCIDR: `of=CIDR`; with `leaving` it is being deleted."""
        if "leaving" in settings:
            self.world.delete("ServiceCIDR", name, "Background")
            return []
        spec = {"cidrs": settings["of"].split(",")}
        version = "networking.k8s.io/v1"
        self.world.add({"apiVersion": version, "kind": "ServiceCIDR", "metadata": {"name": name}, "spec": spec})
        return []

    def do_see_ranges(self, name: str, settings: Settings) -> list[str]:
        """The ServiceCIDR loop takes a step for each; `used=IP,IP` are the addresses in use."""
        used = [each for each in settings.get("used", "").split(",") if each]
        lines = []
        for service_cidr in self.world.all("ServiceCIDR"):
            others = [each for each in self.world.all("ServiceCIDR") if name_of(each) != name_of(service_cidr)]
            for action in servicecidr.decide(service_cidr, others, used, self.world.now):
                lines += self._range_line(action)
        return lines

    def _range_line(self, action: Action) -> list[str]:
        match action:
            case Update(obj):
                finalizers = obj["metadata"]["finalizers"]
                if obj["metadata"].get("deletionTimestamp") and not finalizers:
                    self.world.remove(obj["kind"], name_of(obj))
                    return [f"{name_of(obj)} is let go"]
                self.world.replace(copy.deepcopy(obj))
                return [f"{name_of(obj)} is held by its finalizer"]
        return self.world.carry_out(action)

    def do_balance(self, name: str, settings: Settings) -> list[str]:
        """The load balancer loop takes one step, with `pool=SPAN,SPAN`."""
        pool = loadbalancer.parse_pool(settings.get("pool", ""))
        lines = []
        for action in loadbalancer.decide(self.world.all("Service"), {}, pool):
            if isinstance(action, UpdateStatus):
                self.world.replace(copy.deepcopy(action.obj))
                lines.append(
                    f"{name_of(action.obj)} has {' '.join(loadbalancer.addresses_of(action.obj)) or 'nothing'}"
                )
            elif isinstance(action, Emit):
                lines.append(f"{name_of(action.obj)}: {action.reason}: {action.message}")
        return lines

    def _written(self, actions: list[Action], *, is_counted: bool = False) -> list[str]:
        lines = []
        for action in actions:
            match action:
                case Create(obj):
                    lines.append(f"create {_told(self.world.add(obj), is_counted=is_counted)}")
                case Update(obj):
                    self.world.replace(copy.deepcopy(obj))
                    lines.append(f"update {_told(obj, is_counted=is_counted)}")
                case Delete():
                    self.world.remove(action.kind.kind, action.name)
                    lines.append(f"delete {action.name}")
        return lines


def _names(text: str) -> list[str]:
    first, dots, last = text.partition("..")
    if not dots:
        return text.split(",")
    stem = first.rstrip("0123456789")
    return [f"{stem}{number}" for number in range(int(first[len(stem) :]), int(last[len(stem) :]) + 1)]


def _told(obj: Object, *, is_counted: bool) -> str:
    if obj["kind"] == "Endpoints":
        parts = []
        for subset in obj.get("subsets") or ():
            ready = [each["ip"] for each in subset.get("addresses") or ()]
            others = [f"({each['ip']})" for each in subset.get("notReadyAddresses") or ()]
            parts.append(f"{' '.join([*ready, *others])} {_ports(subset.get('ports'))}")
        return f"endpoints {name_of(obj)}: {'; '.join(parts) or 'nothing'}"
    if is_counted:
        return f"{name_of(obj)}: {len(obj['endpoints'])}"
    members = ", ".join(_member(each) for each in obj["endpoints"])
    return f"{name_of(obj)} {obj['addressType']} {_ports(obj['ports'])}: {members or 'nothing'}"


def _ports(ports: Any) -> str:
    return "+".join(f"{port['name'] or ''}:{port['port']}" for port in ports or ()) or "no ports"


def _member(endpoint: Any) -> str:
    conditions = endpoint["conditions"]
    words = [name for name in ("ready", "serving", "terminating") if conditions.get(name)]
    hints = endpoint.get("hints") or {}
    words += [f"for-zone-{each['name']}" for each in hints.get("forZones") or ()]
    words += [f"for-node-{each['name']}" for each in hints.get("forNodes") or ()]
    words += [f"named-{endpoint['hostname']}"] if "hostname" in endpoint else []
    return " ".join([*endpoint["addresses"], *words])
