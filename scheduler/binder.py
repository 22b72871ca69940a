"""Binding: tells the API server which node each pod goes to, many at a time, and keeps account of what it assumed.

A decided pod is *assumed*: it counts in the snapshot before the API server knows of it. The assumption ends when

- the informer shows the pod with its node (`settle`), or shows that the pod is gone;
- the binding was refused (404, 409, 4xx): the pod's state is read and handed to `on_outcome`;
- the outcome is unknown (connection lost, 5xx), or the informer shows nothing for `CONFIRM_SECONDS`: the pod's state
  is read, again and again with back-off while the server is away, and handed to `on_outcome`.

So room is never counted as free while a binding may have happened, and no assumption lasts for ever.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from pyk.api.kinds import POD
from pyk.api.objects import Object, split_key
from pyk.api.status import ApiError
from pyk.client.client import Client, ClientUnavailable
from pyk.reconcile.clock import Clock
from pyk.reconcile.controller import Controller, Result
from scheduler import metrics
from scheduler.queue import QueuedPod
from scheduler.volumebinder import VolumeBinder, VolumesLost
from scheduler.volumebinding import PlannedClaim

log = logging.getLogger(__name__)

WORKERS = 80
CONFIRM_SECONDS = 30.0
VOLUMES_SECONDS = 600.0
"""How long a pod waits for its claims to be bound (Kubernetes' `bindTimeoutSeconds`)."""


@dataclass(slots=True)
class Assumed:
    """A pod that is being bound. `was_sent`: a binding request went out, and its outcome is not known to be failure.

    `planned` is what is to become of its claims first, under way since `volumes_since` (seconds, monotonic).
    """

    pod: QueuedPod
    node: str
    was_sent: bool = False
    planned: list[PlannedClaim] = field(default_factory=list)
    volumes_since: float | None = None


Outcome = Callable[[Assumed, Object | None], None]
"""Called when an assumption could not simply be confirmed: with the pod of that name as it is (it may be another one
by now), None when there is none."""


class Binder:
    """Binds assumed pods. `on_bound` is called when a request succeeded, `on_outcome` as described above."""

    def __init__(
        self,
        client: Client,
        clock: Clock,
        volumes: VolumeBinder,
        on_bound: Callable[[Assumed], None],
        on_outcome: Outcome,
    ) -> None:
        self._client = client
        self._clock = clock
        self._volumes = volumes
        self._on_bound = on_bound
        self._on_outcome = on_outcome
        self._assumed: dict[str, Assumed] = {}
        self._to_send = 0
        self._waiting_for_volumes: set[str] = set()
        self._controller = Controller("bind", self._bind, clock=clock, workers=WORKERS, max_delay=5.0)

    async def run(self) -> None:
        """Bind until cancelled."""
        await self._controller.run()

    @property
    def waiting(self) -> int:
        """Pods whose binding request has not gone out yet."""
        return self._to_send

    def bind(self, pod: QueuedPod, node: str) -> None:
        """Bind the pod, which has been placed into the snapshot."""
        planned = self._volumes.plan(pod.signature, node) if pod.signature.volumes.claims else []
        self._assumed[pod.key] = Assumed(pod, node, planned=planned)
        self._to_send += 1
        self._controller.enqueue(pod.key)

    def settle(self, key: str) -> None:
        """What became of the pod is known: it has a node, or is gone."""
        assumed = self._assumed.pop(key, None)
        if assumed is not None:
            self._volumes.release(assumed.pod.signature)
            if not assumed.was_sent:
                self._to_send -= 1

    def storage_changed(self) -> None:
        """Claims or volumes have changed: pods may be waiting for it."""
        for key in self._waiting_for_volumes:
            self._controller.enqueue(key)

    async def _bind(self, key: str) -> Result | None:
        assumed = self._assumed.get(key)
        if assumed is None:
            self._waiting_for_volumes.discard(key)
            return None
        if assumed.was_sent:
            await self._find_out(key, assumed)
            return None
        if assumed.pod.signature.volumes.claims and (wait := await self._wait_for_volumes(key, assumed)) is not None:
            return wait
        if self._assumed.get(key) is not assumed:
            return None
        self._to_send -= 1
        assumed.was_sent = True
        started = self._clock.monotonic()
        namespace, name = split_key(key)
        try:
            await self._client.create(
                POD, _binding(assumed, namespace, name), namespace=namespace, name=name, subresource="binding"
            )
        except (ApiError, ClientUnavailable) as error:
            log.warning("binding %s to %s: %s", key, assumed.node, error)
            metrics.SCHEDULE_ATTEMPTS.labels("error").inc()
            await self._find_out(key, assumed)
            return None
        metrics.BINDING_SECONDS.observe(self._clock.monotonic() - started)
        self._on_bound(assumed)
        return Result(CONFIRM_SECONDS) if self._assumed.get(key) is assumed else None

    async def _wait_for_volumes(self, key: str, assumed: Assumed) -> Result | None:
        """Have the pod's volumes made ready: None when they are, or the pod is given up."""
        now = self._clock.monotonic()
        signature = assumed.pod.signature
        try:
            if assumed.volumes_since is None:
                await self._volumes.start(assumed.planned, assumed.node)
                assumed.volumes_since = now
            if self._volumes.are_bound(signature, assumed.planned, assumed.node):
                self._waiting_for_volumes.discard(key)
                return None
            if now < assumed.volumes_since + VOLUMES_SECONDS:
                self._waiting_for_volumes.add(key)
                return Result(assumed.volumes_since + VOLUMES_SECONDS - now)
            raise VolumesLost(f"not bound after {VOLUMES_SECONDS:.0f} s")
        except (VolumesLost, ApiError) as error:
            log.warning("the volumes of %s on %s: %s", key, assumed.node, error)
            metrics.SCHEDULE_ATTEMPTS.labels("error").inc()
            self._waiting_for_volumes.discard(key)
            if self._assumed.get(key) is assumed:
                self._to_send -= 1
                assumed.was_sent = True
                await self._find_out(key, assumed)
            return Result()

    async def _find_out(self, key: str, assumed: Assumed) -> None:
        """Read the pod's state and end the assumption. Raises what makes the controller ask again later."""
        namespace, name = split_key(key)
        present: Object | None = None
        try:
            present = await self._client.get(POD, name, namespace)
        except ApiError as error:
            if error.code != 404:
                raise
        if self._assumed.get(key) is not assumed:
            return
        del self._assumed[key]
        self._volumes.release(assumed.pod.signature)
        self._on_outcome(assumed, present)


def _binding(assumed: Assumed, namespace: str, name: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": name, "namespace": namespace, "uid": assumed.pod.uid},
        "target": {"apiVersion": "v1", "kind": "Node", "name": assumed.node},
    }
