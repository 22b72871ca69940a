"""The loop of the cluster's authority: every namespace has a ConfigMap `kube-root-ca.crt` with its certificate.

Watches Namespaces and the ConfigMaps of that name; one that is deleted or changed is made right again. Pods find the
certificate in it by which they trust the API server.
"""

from __future__ import annotations

from controlplane.controllers.podcontrol import is_namespace_terminating
from pyk.api.kinds import CONFIG_MAP
from pyk.api.objects import Object, is_deleting, name_of, namespace_of
from pyk.api.status import ApiError
from pyk.client.client import Client
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.actions import Action, Create, Update, apply
from pyk.reconcile.clock import Clock
from pyk.reconcile.controller import Controller

NAME, KEY = "kube-root-ca.crt", "ca.crt"
_DESCRIPTION = {
    "kubernetes.io/description": "Contains a CA bundle that can be used to verify the kube-apiserver when using "
    "internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across "
    "distributions of Kubernetes clusters."
}


def decide(namespace: Object, present: Object | None, certificate: str) -> list[Action]:
    """Create or mend the ConfigMap of a namespace that stays."""
    if is_deleting(namespace):
        return []
    data = {KEY: certificate}
    if present is None:
        metadata = {"name": NAME, "namespace": name_of(namespace), "annotations": _DESCRIPTION}
        return [Create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})]
    if present.get("data") == data and not present.get("binaryData"):
        return []
    return [Update({**{key: value for key, value in present.items() if key != "binaryData"}, "data": data})]


class RootCaLoop:
    """Observes through two informers and writes what is missing; `certificate` is PEM text."""

    def __init__(
        self, client: Client, recorder: EventRecorder, clock: Clock, namespaces: Informer, certificate: str
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._namespaces = namespaces
        self._certificate = certificate
        self.informer = Informer(client, CONFIG_MAP, clock=clock, field_selector=f"metadata.name={NAME}")
        self.controller = Controller("root-ca-certificate-publisher", self.reconcile, clock=clock, max_delay=30.0)
        self.controller.watches(namespaces)
        self.controller.watches(self.informer, lambda found: (namespace_of(found),))

    async def reconcile(self, key: str) -> None:
        """See to one namespace."""
        namespace = self._namespaces.get(key)
        if namespace is not None:
            present = self.informer.get(f"{key}/{NAME}")
            try:
                await apply(self._client, self._recorder, decide(namespace, present, self._certificate))
            except ApiError as error:
                # Made by somebody else meanwhile, or the namespace is going: both leave nothing to do.
                if error.reason != "AlreadyExists" and not is_namespace_terminating(error):
                    raise
