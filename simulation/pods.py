"""The pods of a simulated node: the agent's own decisions, carried out on containers that are only imagined.

What an agent decides is `agent.pods.decide`, which is pure; here its actions are carried out on a `Machine`, where a
container is a record that ends when its time comes. Statuses are the agent's own, written by its own writer, and a pod
is admitted by its own check of the node's room. How containers behave is said by the annotations of their pod
(`Behaviour`), with the node's dice; without them they start at once, run for ever and stop when they are told to.

A `Machine` outlives the agent, as containers do. When the machine itself dies everything on it is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from agent.pods import actions as do
from agent.pods.actions import Action
from agent.pods.admission import Room, admit
from agent.pods.decide import decide
from agent.pods.observed import ContainerView, Health, Observed, SandboxView, Stop, container_id, views_of_status
from agent.pods.perform import is_urgent
from agent.pods.resources import pod_requests
from agent.pods.restart import Backoff
from agent.pods.status import is_terminal
from agent.pods.writer import StatusWriter
from agent.runtime.contract import Phase
from pyk.api.kinds import POD
from pyk.api.objects import Object, annotations_of, is_deleting, name_of, namespace_of, uid_of
from pyk.api.status import ApiError
from pyk.client.client import Client
from pyk.client.informer import Informer
from pyk.reconcile.clock import Clock
from pyk.reconcile.controller import Controller, Result

MOST_ROUNDS = 50
_STARTS_IN, _RUNS_FOR, _FAILS, _STOPS_IN = (
    f"simulation.pyk.io/{word}" for word in ("starts-in", "runs-for", "fails", "stops-in")
)
_UID = "uid"
_NEVER = float("inf")

OnRun = Callable[[Object, bool], None]
"""Called when a pod begins to run containers on the machine (True), and when none of it runs any more."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How the containers of a pod behave; ranges are seconds from which the dice choose."""

    starts_in: tuple[float, float] = (0.0, 0.0)
    runs_for: tuple[float, float] | None = None
    fails: float = 0.0
    stops_in: tuple[float, float] = (0.0, 0.0)

    @staticmethod
    def of(pod: Object) -> Behaviour:
        """What the annotations say: ranges as `0.5-2`, the share of runs that fail as a number."""
        said = annotations_of(pod)
        runs_for = _range(said[_RUNS_FOR]) if _RUNS_FOR in said else None
        return Behaviour(
            _range(said.get(_STARTS_IN, "0")),
            runs_for,
            float(said.get(_FAILS, "0")),
            _range(said.get(_STOPS_IN, "0")),
        )


def _range(text: str) -> tuple[float, float]:
    low, _, high = text.partition("-")
    return float(low), float(high or low)


@dataclass(slots=True)
class Record:
    """A pod on the machine. `ends` are the times at which containers end by themselves or because they were told to,
    with their exit codes; `ready_at` when they become ready. Times are seconds since the epoch, by the machine's clock.
    """

    pod: Object
    observed: Observed
    behaviour: Behaviour
    is_admitted: bool = False
    ends: dict[str, tuple[float, int]] = field(default_factory=dict)
    ready_at: dict[str, float] = field(default_factory=dict)
    is_running: bool = False
    deleted_version: str = ""

    def due(self) -> Iterator[float]:
        """When something happens to the pod by itself."""
        yield from (at for at, _ in self.ends.values())
        yield from self.ready_at.values()

    @property
    def takes_room(self) -> bool:
        """Whether its requests count against the node."""
        return self.is_admitted and (any(not view.has_ended for view in self.observed.containers.values())
                                     or not (is_terminal(self.pod) or self.observed.gone))  # fmt: skip


@dataclass(slots=True)
class Machine:
    """What is on a machine, whether its agent runs or not."""

    on_run: OnRun
    records: dict[str, Record] = field(default_factory=dict)
    addresses: int = 0

    def die(self) -> None:
        """The power is gone, and with it all that ran."""
        for record in self.records.values():
            if record.is_running:
                self.on_run(record.pod, False)
        self.records.clear()


class Pods:
    """The loop over a node's pods. `node()` gives the Node, `subnet` the first three bytes of its pods' addresses.

    `pace` are the least and the most seconds that a step of a pod's way up takes.
    """

    def __init__(
        self,
        client: Client,
        clock: Clock,
        node_name: str,
        machine: Machine,
        node: Callable[[], Object | None],
        *,
        subnet: str,
        pace: tuple[float, float],
    ) -> None:
        self._client = client
        self._clock = clock
        self._machine = machine
        self._node = node
        self._subnet = subnet
        self._pace = pace
        self._backoff = Backoff()
        self.informer = Informer(client, POD, clock=clock, field_selector=f"spec.nodeName={node_name}")
        self.informer.add_index(_UID, lambda pod: (uid_of(pod),))
        self._controller = Controller("simulated pods", self._reconcile, clock=clock, workers=4, max_delay=10.0)
        self._controller.watches(self.informer, lambda pod: (uid_of(pod),))
        self._writer = StatusWriter(client, clock, self._current)

    async def run(self) -> None:
        """Look after the pods until cancelled; what runs goes on running."""
        await self.informer.wait_synced()
        for uid in self._machine.records:
            self._controller.enqueue(uid)
        try:
            await self._controller.run()
        finally:
            await self._writer.close()

    def _current(self, uid: str) -> Object | None:
        found = self.informer.by_index(_UID, uid)
        return found[0] if found else None

    async def _reconcile(self, uid: str) -> Result | None:
        if self._node() is None:
            return Result(0.5)
        record = self._refresh(uid)
        for _ in range(MOST_ROUNDS):
            if record is None:
                return None
            now = self._clock.time()
            self._come_true(record, now)
            actions = decide(record.pod, record.observed, now, self._backoff)
            if not await self._perform(uid, record, actions):
                due = [*record.due(), *(action.at for action in actions if isinstance(action, do.Requeue))]
                self._tell_whether_running(record)
                if record.observed.gone and not record.observed.has_remains:
                    self._forget(uid)
                return Result(max(0.0, min(due) - self._clock.time())) if due else None
            record = self._refresh(uid)
        raise RuntimeError(f"pod {uid} does not come to rest: {actions}")

    def _refresh(self, uid: str) -> Record | None:
        pod = self._current(uid)
        record = self._machine.records.get(uid)
        if pod is None:
            if record is not None:
                record.observed = replace(record.observed, gone=True)
            return record
        pod = self._writer.newest(pod)
        if record is None:
            past = views_of_status(pod)
            observed = Observed(first_seen=self._clock.time(), host_addresses=(f"{self._subnet}.1",), past=past)
            record = self._machine.records[uid] = Record(pod, observed, Behaviour.of(pod))
        record.pod = pod
        if not record.is_admitted and not is_terminal(pod) and not is_deleting(pod):
            self._admit(uid, record)
        return record

    def _admit(self, uid: str, record: Record) -> None:
        """Take the pod if there is room; one that has begun already was taken before the agent came back."""
        if record.observed.rejection is not None:
            return
        node = self._node()
        others = {
            other: pod_requests(each.pod)
            for other, each in self._machine.records.items()
            if other != uid and each.takes_room
        }
        assert node is not None
        rejection = admit(record.pod, node, Room(others))
        record.is_admitted = rejection is None
        record.observed = replace(record.observed, rejection=rejection)

    def _forget(self, uid: str) -> None:
        self._machine.records.pop(uid, None)
        self._writer.forget(uid)

    # What happens by itself

    def _come_true(self, record: Record, now: float) -> None:
        """Containers whose time has come end; those that have started are ready."""
        for identifier, (at, code) in list(record.ends.items()):
            if at <= now:
                self._end(record, identifier, code, at)
        for identifier, at in list(record.ready_at.items()):
            if at <= now:
                del record.ready_at[identifier]
                record.observed = replace(record.observed, health={**record.observed.health, identifier: Health()})

    def _end(self, record: Record, identifier: str, code: int, at: float) -> None:
        record.ends.pop(identifier, None)
        record.ready_at.pop(identifier, None)
        for name, view in record.observed.containers.items():
            if view.id == identifier and not view.has_ended:
                reason = "Completed" if code == 0 else "Error"
                ended = replace(view, phase=Phase.EXITED, exit_code=code, finished_at=at, reason=reason)
                record.observed = replace(record.observed, containers={**record.observed.containers, name: ended})

    def _tell_whether_running(self, record: Record) -> None:
        is_running = any(not view.has_ended for view in record.observed.containers.values())
        if is_running != record.is_running:
            record.is_running = is_running
            self._machine.on_run(record.pod, is_running)

    # What is decided

    async def _perform(self, uid: str, record: Record, actions: Sequence[Action]) -> bool:
        """Do it; whether anything of it may lead to another decision. Steps on the way up take their time."""
        changed, is_step = False, False
        for action in actions:
            match action:
                case do.SetStatus(status):
                    self._writer.set(uid, status, urgent=is_urgent(status, record.pod))
                case do.Requeue() | do.Emit():
                    continue
                case do.DeleteObject():
                    await self._delete_object(uid, record)
                case do.MakeSandbox() | do.AttachNetwork():
                    is_step = changed = True
                    self._change(record, action)
                case _:
                    changed = True
                    self._change(record, action)
        if is_step and self._pace[1] > 0:
            await self._clock.sleep(self._clock.random.uniform(*self._pace))
        return changed

    def _change(self, record: Record, action: Action) -> None:
        seen, now = record.observed, self._clock.time()
        match action:
            case do.MakeSandbox():
                past = {**seen.past, **seen.containers}
                record.observed = replace(
                    seen, sandbox=SandboxView(True, now), is_attached=False, containers={}, past=past, has_remains=True
                )
            case do.AttachNetwork():
                record.observed = replace(seen, is_attached=True, addresses=(self._new_address(),))
            case do.SetUpVolumes():
                record.observed = replace(seen, volumes_ready=True, volumes_stale=False, has_remains=True)
            case do.ResolveImage(name):
                record.observed = replace(seen, images=seen.images | {name})
            case do.Launch(name, attempt, backoff, run):
                self._launch(record, name, attempt, backoff, run)
            case do.StopContainer():
                self._stop(record, action)
            case do.KillContainer(identifier):
                self._end(record, identifier, 137, now)
            case do.RemoveContainer(identifier):
                kept = {name: view for name, view in seen.containers.items() if view.id != identifier}
                removable = tuple(each for each in seen.removable if each != identifier)
                record.observed = replace(seen, containers=kept, removable=removable)
            case do.RemoveSandbox():
                record.observed = replace(
                    seen, sandbox=None, is_attached=False, addresses=(), stops={}, health={}, images=frozenset()
                )
            case do.TearDown():
                record.observed = replace(seen, has_remains=False, volumes_ready=False)
            case _:
                raise NotImplementedError(f"a simulated node cannot do {action}")

    def _new_address(self) -> str:
        self._machine.addresses = self._machine.addresses % 250 + 1
        return f"{self._subnet}.{self._machine.addresses + 2}"

    def _launch(self, record: Record, name: str, attempt: int, backoff: float, run: int) -> None:
        seen, now, dice, behaviour = record.observed, self._clock.time(), self._clock.random, record.behaviour
        identifier = container_id(uid_of(record.pod), name, attempt)
        view = ContainerView(
            name, attempt, identifier, Phase.RUNNING, now, now, backoff=backoff, image="simulated", run=run
        )
        past = {**seen.past, name: seen.containers[name]} if name in seen.containers else dict(seen.past)
        health = dict(seen.health)
        if behaviour.starts_in[1] > 0:
            health[identifier] = Health(ready=False)
            record.ready_at[identifier] = now + dice.uniform(*behaviour.starts_in)
        record.observed = replace(
            seen, containers={**seen.containers, name: view}, past=past, health=health, images=seen.images - {name}
        )
        if behaviour.runs_for is not None:
            code = 1 if dice.random() < behaviour.fails else 0
            record.ends[identifier] = (now + dice.uniform(*behaviour.runs_for), code)
        self._tell_whether_running(record)

    def _stop(self, record: Record, action: do.StopContainer) -> None:
        seen, now = record.observed, self._clock.time()
        known = seen.stops.get(action.id)
        if known is not None:
            deadline = min(known.deadline, action.deadline)
            record.observed = replace(seen, stops={**seen.stops, action.id: replace(known, deadline=deadline)})
            return
        since = seen.stopping_since or (now if action.ends_pod else 0.0)
        stops = {**seen.stops, action.id: Stop(now, action.deadline)}
        record.observed = replace(seen, stops=stops, stopping_since=since)
        ends = now + self._clock.random.uniform(*record.behaviour.stops_in)
        earlier = record.ends.get(action.id, (_NEVER, 0))
        record.ends[action.id] = min(earlier, (ends, 143))

    async def _delete_object(self, uid: str, record: Record) -> None:
        """Remove the pod from the API, once for each state of it that still asks for it; its last status is written
        before. Raises `ApiError` and `ClientUnavailable`."""
        if record.deleted_version == record.pod["metadata"]["resourceVersion"]:
            return
        await self._writer.flush(uid)
        version = self._writer.newest(record.pod)["metadata"]["resourceVersion"]
        try:
            await self._client.delete(
                POD, name_of(record.pod), namespace_of(record.pod), grace_period_seconds=0, uid=uid
            )
        except ApiError as error:
            if error.code not in (404, 409):
                raise
        record.deleted_version = version
