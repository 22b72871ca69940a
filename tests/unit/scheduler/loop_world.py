"""The scheduler's loop on an API in memory and in virtual time: what the tests of the loop share."""

from __future__ import annotations

import asyncio
import copy
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from pyk.api.kinds import EVENT, POD, Kind
from pyk.api.objects import key_of
from pyk.api.status import ApiError, conflict, not_found
from pyk.client.client import ClientUnavailable, ObjectList, WatchEvent
from pyk.reconcile.clock import VirtualClock, settle
from scheduler.loop import Scheduler

Json = dict[str, Any]


class FakeApi:
    """As much of the API server as the scheduler uses. `on_bind` may raise, before or after the binding is done."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Json]] = defaultdict(dict)
        self.watchers: list[tuple[str, asyncio.Queue[WatchEvent | None]]] = []
        self.revision = 0
        self.before_bind: Callable[[str], None] = lambda key: None
        self.after_bind: Callable[[str], None] = lambda key: None
        self.is_away = False
        self.muted = False
        self.binds = 0
        self.patched_pods = 0
        self.binding_allowed = asyncio.Event()
        self.binding_allowed.set()

    # For tests

    def put(self, kind: Kind, obj: Json) -> None:
        self.revision += 1
        key = key_of(obj)
        known = key in self.objects[kind.plural]
        obj["metadata"]["resourceVersion"] = str(self.revision)
        self.objects[kind.plural][key] = obj
        finished = obj.get("status", {}).get("phase") in ("Succeeded", "Failed")
        self._tell(kind, "DELETED" if finished else "MODIFIED" if known else "ADDED", obj)

    def drop(self, kind: Kind, key: str) -> None:
        obj = self.objects[kind.plural].pop(key)
        self.revision += 1
        obj["metadata"]["resourceVersion"] = str(self.revision)
        self._tell(kind, "DELETED", obj)

    def break_watches(self) -> None:
        for _, queue in self.watchers:
            queue.put_nowait(None)
        self.watchers = []

    def pod(self, name: str) -> Json:
        return self.objects["pods"][f"default/{name}"]

    def node_of(self, name: str) -> str | None:
        found: str | None = self.pod(name)["spec"].get("nodeName")
        return found

    def told(self, reason: str) -> list[str]:
        return [event["message"] for event in self.objects["events"].values() if event["reason"] == reason]

    def condition(self, name: str) -> Json:
        conditions = self.pod(name).get("status", {}).get("conditions", [])
        return next((each for each in conditions if each["type"] == "PodScheduled"), {})

    def _tell(self, kind: Kind, type: str, obj: Json) -> None:
        for plural, queue in self.watchers:
            if plural == kind.plural and not self.muted:
                queue.put_nowait(WatchEvent(type, copy.deepcopy(obj)))

    def _reach(self) -> None:
        if self.is_away:
            raise ClientUnavailable("the API server is away")

    # What the client offers

    async def list(self, kind: Kind, namespace: str = "", **_: Any) -> ObjectList:
        self._reach()
        items = [
            copy.deepcopy(obj)
            for obj in self.objects[kind.plural].values()
            if obj.get("status", {}).get("phase") not in ("Succeeded", "Failed")
        ]
        return ObjectList(items, str(self.revision))

    async def watch(
        self, kind: Kind, namespace: str = "", *, resource_version: str = "", **_: Any
    ) -> AsyncGenerator[WatchEvent, None]:
        self._reach()
        if int(resource_version) != self.revision:
            raise ApiError(410, "Expired", "too old")
        queue: asyncio.Queue[WatchEvent | None] = asyncio.Queue()
        self.watchers.append((kind.plural, queue))
        while (event := await queue.get()) is not None:
            yield event

    async def get(self, kind: Kind, name: str, namespace: str = "") -> Json:
        self._reach()
        key = f"{namespace}/{name}" if namespace else name
        if key not in self.objects[kind.plural]:
            raise not_found("", kind.plural, name)
        return copy.deepcopy(self.objects[kind.plural][key])

    async def create(
        self, kind: Kind, obj: Json, *, namespace: str = "", name: str = "", subresource: str = ""
    ) -> Json:
        await asyncio.sleep(0)
        self._reach()
        if subresource == "binding":
            return await self._bind(f"{namespace}/{name}", obj)
        self.objects[kind.plural][key_of(obj)] = copy.deepcopy(obj)
        return copy.deepcopy(obj)

    async def _bind(self, key: str, binding: Json) -> Json:
        self.binds += 1
        await self.binding_allowed.wait()
        self.before_bind(key)
        pod = self.objects["pods"].get(key)
        if pod is None:
            raise not_found("", "pods", key)
        if pod["spec"].get("nodeName") or pod["metadata"]["uid"] != binding["metadata"]["uid"]:
            raise conflict("", "pods/binding", key, "already assigned")
        pod = copy.deepcopy(pod)
        pod["spec"]["nodeName"] = binding["target"]["name"]
        pod.setdefault("status", {})["conditions"] = [{"type": "PodScheduled", "status": "True"}]
        self.put(POD, pod)
        self.after_bind(key)
        return {}

    async def delete(self, kind: Kind, name: str, namespace: str = "", *, uid: str | None = None) -> Json:
        await asyncio.sleep(0)
        self._reach()
        key = f"{namespace}/{name}"
        found = self.objects[kind.plural].get(key)
        if found is None or (uid and found["metadata"]["uid"] != uid):
            raise not_found("", kind.plural, name)
        if found["spec"].get("terminationGracePeriodSeconds"):
            gone = copy.deepcopy(found)
            gone["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
            self.put(kind, gone)
        else:
            self.drop(kind, key)
        return {}

    async def patch(self, kind: Kind, name: str, namespace: str, patch: Any, **options: Any) -> Json:
        await asyncio.sleep(0)
        self._reach()
        key = f"{namespace}/{name}"
        if key not in self.objects[kind.plural]:
            raise not_found("", kind.plural, name)
        obj = copy.deepcopy(self.objects[kind.plural][key])
        if kind is EVENT:
            obj.update(patch)
            self.objects["events"][key] = obj
            return obj
        self.patched_pods += 1
        assert options == {"content_type": "application/strategic-merge-patch+json", "subresource": "status"}
        conditions = {each["type"]: each for each in obj.setdefault("status", {}).get("conditions", [])}
        if "nominatedNodeName" in patch["status"]:
            obj["status"]["nominatedNodeName"] = patch["status"]["nominatedNodeName"]
        for each in patch["status"].get("conditions", []):
            conditions[each["type"]] = {**conditions.get(each["type"], {}), **each}
        obj["status"]["conditions"] = list(conditions.values())
        self.put(kind, obj)
        return obj


def pod(name: str, cpu: str = "1", uid: str = "", **spec: Any) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": uid or f"uid-{name}"},
        "spec": {
            "schedulerName": "default-scheduler",
            "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}],
            **spec,
        },
        "status": {"phase": "Pending"},
    }


def pod_group(name: str, least: int) -> Json:
    return {
        "apiVersion": "scheduling.k8s.io/v1alpha2",
        "kind": "PodGroup",
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}"},
        "spec": {"schedulingPolicy": {"gang": {"minCount": least}} if least else {"basic": {}}},
    }


def no_victims(nodes: int) -> str:
    return f"preemption: 0/{nodes} nodes are available: {nodes} No preemption victims found for incoming pod."


def not_helpful(nodes: int) -> str:
    return f"preemption: 0/{nodes} nodes are available: {nodes} Preemption is not helpful for scheduling."


def node(name: str, cpu: str = "2", **labels: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "uid": f"uid-{name}", "labels": labels},
        "spec": {},
        "status": {"allocatable": {"cpu": cpu, "memory": "64Gi", "pods": "110"}},
    }


class World:
    """The API, the clock and the scheduler that runs on them."""

    def __init__(self) -> None:
        self.api = FakeApi()
        self.clock = VirtualClock(seed=1)
        self.scheduler = Scheduler(self.api, self.clock)  # type: ignore[arg-type]

    async def quiet(self) -> None:
        """Let everything happen that needs no time."""
        for _ in range(10):
            await settle()

    async def pass_time(self, seconds: float) -> None:
        await self.clock.advance(seconds)
        await self.quiet()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.scheduler.run())
        try:
            await self.quiet()
            yield
            assert not task.done(), task.exception()
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
