"""The ServiceAccount loop: every namespace that stays has a ServiceAccount `default`, for pods that name none.

Watches Namespaces and ServiceAccounts; one that is deleted is made again.
"""

from __future__ import annotations

from collections.abc import Iterable

from controlplane.controllers.podcontrol import is_namespace_terminating
from pyk.api.objects import Object, is_deleting, name_of, namespace_of
from pyk.api.status import ApiError
from pyk.client.client import Client
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.actions import Action, Create, apply
from pyk.reconcile.clock import Clock
from pyk.reconcile.controller import Controller

DEFAULT = "default"


def decide(namespace: Object, accounts: Iterable[Object]) -> list[Action]:
    """Create the account `default` where the namespace lacks it and is not being deleted."""
    if is_deleting(namespace) or any(name_of(account) == DEFAULT for account in accounts):
        return []
    metadata = {"name": DEFAULT, "namespace": name_of(namespace)}
    return [Create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})]


class ServiceAccountLoop:
    """Observes through two informers and creates what is missing."""

    def __init__(
        self, client: Client, recorder: EventRecorder, clock: Clock, namespaces: Informer, accounts: Informer
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._namespaces = namespaces
        self._accounts = accounts
        self.controller = Controller("serviceaccount", self.reconcile, clock=clock, max_delay=30.0)
        self.controller.watches(namespaces)
        self.controller.watches(accounts, lambda account: (namespace_of(account),))

    async def reconcile(self, key: str) -> None:
        """See to one namespace."""
        namespace = self._namespaces.get(key)
        if namespace is None:
            return
        try:
            await apply(self._client, self._recorder, decide(namespace, self._accounts.by_index("namespace", key)))
        except ApiError as error:
            # Made by somebody else meanwhile, or the namespace is going: both leave nothing to do.
            if error.reason != "AlreadyExists" and not is_namespace_terminating(error):
                raise
