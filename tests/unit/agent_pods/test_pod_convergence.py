"""From any observed state the pod loop converges: a small world that does what is decided comes to rest in the state
that the pod asks for, or with nothing left of a pod that is deleted or gone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.pods import actions as do
from agent.pods.decide import decide
from agent.pods.observed import ContainerView, Failure, Health, Observed, SandboxView, Stop
from agent.pods.restart import Backoff
from agent.runtime.contract import Phase
from pyk.reconcile.clock import timestamp

BACKOFF = Backoff(10.0, 300.0)
START = 1_000_000.0
MOST_STEPS = 300

NAMES = ("init", "side", "c1", "c2")


def pod_of(*, deleting: bool, policy: str, phase: str, grace: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": "p", "namespace": "ns", "uid": "u", "generation": 1, "resourceVersion": "1"}
    if deleting:
        metadata |= {"deletionTimestamp": timestamp(START), "deletionGracePeriodSeconds": grace}
    return {
        "metadata": metadata,
        "spec": {
            "restartPolicy": policy,
            "terminationGracePeriodSeconds": grace,
            "initContainers": [
                {"name": "init", "image": "i"},
                {"name": "side", "image": "i", "restartPolicy": "Always"},
            ],
            "containers": [{"name": "c1", "image": "i"}, {"name": "c2", "image": "i"}],
        },
        "status": {"phase": phase} if phase else {},
    }


class World:
    """Does actions at once. `stubborn` containers die by SIGKILL only; init containers succeed, others run on."""

    def __init__(self, pod: dict[str, Any], observed: Observed, stubborn: frozenset[str]) -> None:
        self.pod = pod
        self.observed = observed
        self.stubborn = stubborn
        self.now = START
        self.deleted = False
        self.launched: set[tuple[str, int]] = set()

    def step(self) -> bool:
        """Decide and act once; False when it has come to rest."""
        actions = decide(self.pod, self.observed, self.now, BACKOFF)
        acted = False
        for action in actions:
            acted = self.do(action) or acted
        if acted:
            return True
        due = [action.at for action in actions if isinstance(action, do.Requeue)]
        if due:
            assert min(due) > self.now
            self.now = min(due)
            return True
        init = self.observed.containers.get("init")
        if init is not None and init.is_running:  # it was running from the beginning, and ends some time
            self.end(init.id, 0)
            return True
        return False

    def set(self, **changes: Any) -> None:
        self.observed = replace(self.observed, **changes)

    def put(self, view: ContainerView) -> None:
        self.set(containers={**self.observed.containers, view.name: view})

    def end(self, identifier: str, exit_code: int) -> None:
        for view in self.observed.containers.values():
            if view.id == identifier and not view.has_ended:
                self.put(replace(view, phase=Phase.EXITED, exit_code=exit_code, finished_at=self.now))

    def do(self, action: do.Action) -> bool:
        o = self.observed
        match action:
            case do.Requeue() | do.Emit():
                return False
            case do.SetStatus(status):
                if self.pod["status"].get("phase") == status["phase"]:
                    return False
                self.pod = {**self.pod, "status": {**self.pod["status"], "phase": status["phase"]}}
                return True
            case do.MakeSandbox():
                assert o.sandbox is None
                past = {**o.past, **o.containers}
                self.set(sandbox=SandboxView(True, self.now), is_attached=False, containers={}, past=past)
                self.set(has_remains=True)
            case do.AttachNetwork():
                assert o.sandbox is not None
                assert o.sandbox.alive
                self.set(is_attached=True, addresses=("10.0.0.1",))
            case do.SetUpVolumes():
                self.set(volumes_ready=True, volumes_stale=False, has_remains=True)
            case do.ResolveImage(name):
                self.set(images=o.images | {name})
            case do.Launch(name, attempt, backoff):
                assert o.sandbox is not None
                assert o.sandbox.alive
                assert (name, attempt) not in self.launched, "started twice"
                self.launched.add((name, attempt))
                known = o.containers.get(name)
                assert known is None or known.has_ended, "started beside itself"
                view = ContainerView(name, attempt, f"{name}-{attempt}", Phase.RUNNING, self.now, self.now)
                self.put(replace(view, backoff=backoff))
                self.set(images=self.observed.images - {name})
                if name == "init":
                    self.end(view.id, 0)
            case do.StartCreated(name, identifier):
                self.put(replace(o.containers[name], phase=Phase.RUNNING, started_at=self.now))
                if name == "init":
                    self.end(identifier, 0)
            case do.StopContainer():
                since = o.stopping_since or (self.now if action.ends_pod else 0.0)
                known_stop = o.stops.get(action.id)
                deadline = min(known_stop.deadline, action.deadline) if known_stop else action.deadline
                self.set(stops={**o.stops, action.id: Stop(self.now, deadline)}, stopping_since=since)
                if action.container not in self.stubborn:
                    self.end(action.id, 143)
            case do.KillContainer(identifier):
                self.end(identifier, 137)
            case do.RemoveContainer(identifier):
                kept = {name: view for name, view in o.containers.items() if view.id != identifier}
                self.set(containers=kept, removable=tuple(i for i in o.removable if i != identifier))
            case do.RemoveSandbox():
                assert all(view.has_ended for view in o.containers.values())
                self.set(sandbox=None, is_attached=False, addresses=(), stops={}, health={}, images=frozenset())
            case do.TearDown():
                assert o.sandbox is None
                self.set(has_remains=False, volumes_ready=False)
            case do.DeleteObject():
                assert o.sandbox is None
                assert not o.has_remains
                self.deleted = True
                self.set(gone=True)
        return True


phases = st.sampled_from(list(Phase))


@st.composite
def views(draw: st.DrawFn, name: str) -> ContainerView:
    phase = draw(phases)
    attempt = draw(st.integers(0, 3))
    return ContainerView(
        name,
        attempt,
        f"{name}-{attempt}",
        phase,
        created_at=START - draw(st.integers(0, 1000)),
        started_at=0.0 if phase is Phase.CREATED else START,
        finished_at=START if phase is Phase.EXITED else 0.0,
        exit_code=draw(st.sampled_from([0, 1, 137])) if phase is Phase.EXITED else 0,
        backoff=draw(st.sampled_from([0.0, 10.0, 300.0])),
    )


@st.composite
def observations(draw: st.DrawFn) -> Observed:
    has_sandbox = draw(st.booleans())
    containers = {n: draw(views(n)) for n in NAMES if draw(st.booleans())}
    if not has_sandbox:  # what runs keeps its sandbox
        containers = {name: view for name, view in containers.items() if view.has_ended}
    failure = Failure("Bad", "no", START - 1, START + draw(st.integers(1, 60)))
    running = [view for view in containers.values() if view.is_running]
    return Observed(
        gone=draw(st.booleans()),
        first_seen=START,
        sandbox=SandboxView(draw(st.booleans()), START) if has_sandbox else None,
        is_attached=has_sandbox and draw(st.booleans()),
        containers=containers,
        past={n: replace(draw(views(n)), phase=Phase.EXITED, attempt=0) for n in NAMES if draw(st.booleans())},
        volumes_ready=draw(st.booleans()),
        volumes_stale=draw(st.booleans()),
        images=frozenset(n for n in NAMES if draw(st.booleans())),
        failures={key: failure for key in ("sandbox", "volumes", "launch:c1", "image:c2") if draw(st.booleans())},
        stops={v.id: Stop(START - 5, START + draw(st.integers(-5, 30))) for v in running if draw(st.booleans())},
        health={v.id: Health(unhealthy=draw(st.sampled_from(["", "ill"]))) for v in running},
        has_remains=True,
    )


@settings(max_examples=300, deadline=None)
@given(
    observed=observations(),
    deleting=st.booleans(),
    policy=st.sampled_from(["Always", "OnFailure", "Never"]),
    phase=st.sampled_from(["", "Pending", "Running", "Succeeded", "Failed"]),
    grace=st.integers(0, 40),
    stubborn=st.frozensets(st.sampled_from(NAMES)),
)
def test_any_state_converges(
    observed: Observed, deleting: bool, policy: str, phase: str, grace: int, stubborn: frozenset[str]
) -> None:
    pod = pod_of(deleting=deleting, policy=policy, phase=phase, grace=grace)
    world = World(pod, observed, stubborn)
    for _ in range(MOST_STEPS):
        if not world.step():
            break
    else:
        raise AssertionError(f"no rest after {MOST_STEPS} steps: {world.observed}")
    final = world.observed
    if deleting or observed.gone:
        assert final.sandbox is None
        assert not final.has_remains
        assert world.deleted == (deleting and not observed.gone)
        return
    if world.pod["status"]["phase"] in ("Succeeded", "Failed"):
        assert final.sandbox is None
        assert all(view.has_ended for view in final.containers.values())
        return
    assert final.sandbox is not None
    assert final.sandbox.alive
    assert final.containers["side"].is_running
    for name in ("c1", "c2"):
        ended_for_good = name not in final.containers or final.containers[name].has_ended
        assert not ended_for_good or policy != "Always"
