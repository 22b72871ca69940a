"""The commands of scenario files about nodes' ranges, Ingresses and the API servers that there are."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

from controlplane.apiserver.kubernetes_service import endpoint_slices
from controlplane.controllers import nodeipam
from ingress import status
from ingress.endpoints import upstream_of
from ingress.routes import Backend
from pyk.api.objects import Object, name_of
from tests.scenarios.world import World

Settings = dict[str, str]
NAMESPACE = "default"
PROXY, PROXY_SERVICE = "proxy", "front"


class NetworkActors:
    """What `Actors` can do with them."""

    world: World

    def do_give_ranges(self, name: str, settings: Settings) -> list[str]:
        """The node IPAM loop takes one step: `of=CIDR/PARTS,...` with the prefix length of a node's part; nodes are
        made with `zone`."""
        cluster = []
        for text in settings["of"].split(","):
            network, _, mask = text.rpartition("/")
            cluster.append((ip_network(network), int(mask)))
        lines = []
        for action in nodeipam.decide(self.world.all("Node"), {}, cluster):
            lines += self.world.carry_out(action)
        return lines

    def do_proxy(self, name: str, settings: Settings) -> list[str]:
        """A pod of the Ingress proxy: `at=NODE-ADDRESS`, and `ready`, `unready` or `gone`."""
        if "gone" in settings:
            self.world.remove("Pod", name)
            return []
        known = self.world.get("Pod", name)
        at = settings.get("at") or (known["status"]["hostIP"] if known is not None else "")
        conditions = [{"type": "Ready", "status": "True" if "ready" in settings else "False"}]
        metadata = {"name": name, "namespace": PROXY, "labels": {"app": PROXY}}
        found = {"hostIP": at, "conditions": conditions}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": found}
        if known is None:
            self.world.add(pod)
        else:
            self.world.replace({**pod, "metadata": known["metadata"]})
        return []

    def do_front(self, name: str, settings: Settings) -> list[str]:
        """The proxy's own Service: `balanced=IP` when it has a load balancer's address."""
        ingress = [{"ip": settings["balanced"], "ipMode": "VIP"}] if "balanced" in settings else []
        balancer: dict[str, Any] = {"loadBalancer": {"ingress": ingress}}
        metadata = {"name": PROXY_SERVICE, "namespace": PROXY}
        known = self.world.get("Service", PROXY_SERVICE)
        front = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {}, "status": balancer}
        if known is None:
            self.world.add(front)
        else:
            self.world.replace({**front, "metadata": known["metadata"]})
        return []

    def do_ingress(self, name: str, settings: Settings) -> list[str]:
        """An Ingress: `to=SERVICE:PORT`."""
        service, _, port = settings["to"].partition(":")
        backend = {"service": {"name": service, "port": {"number": int(port)}}}
        metadata = {"name": name, "namespace": NAMESPACE}
        version = "networking.k8s.io/v1"
        spec = {"defaultBackend": backend}
        self.world.add({"apiVersion": version, "kind": "Ingress", "metadata": metadata, "spec": spec})
        return []

    def do_see_ingresses(self, name: str, settings: Settings) -> list[str]:
        """The status loop of every proxy takes a step for each Ingress; `bad=SECRET` is a certificate that does not
        fit."""
        pods = [pod for pod in self.world.all("Pod") if (pod["metadata"].get("labels") or {}).get("app") == PROXY]
        if (writer := status.writer(pods)) is None:
            return ["no proxy is ready: nobody writes"]
        shown = status.addresses(self.world.get("Service", PROXY_SERVICE), pods)
        bad = {settings["bad"]: "certificate and key do not fit"} if "bad" in settings else {}
        lines = []
        for ingress in self.world.all("Ingress"):
            actions = [*status.problems_of(ingress, self._upstream, bad), *status.decide(ingress, shown)]
            told = [line for each in actions for line in self.world.carry_out(each)]
            lines += [f"{writer} for {name_of(ingress)}: {line}" for line in told]
        return lines

    def _upstream(self, backend: Backend) -> Any:
        return upstream_of(backend, self.world.get("Service", backend.service), self._slices_of(backend.service))

    def _slices_of(self, service: str) -> list[Object]:
        return [each for each in self.world.all("EndpointSlice") if each["metadata"]["labels"].get("of") == service]

    def do_servers(self, name: str, settings: Settings) -> list[str]:
        """The slices that name the API servers of which there are keys: `at=HOST:PORT,...`."""
        found = [text.rpartition(":") for text in settings["at"].split(",")]
        slices = endpoint_slices({(host, int(port)) for host, _, port in found})
        lines = []
        for each, made in slices.items():
            hosts = " ".join(endpoint["addresses"][0] for endpoint in made["endpoints"])
            lines.append(f"{each}: {hosts} :{made['ports'][0]['port']}")
        return lines
