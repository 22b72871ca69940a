"""Informers and the event recorder against a real API server: restarts, lost history, failing handlers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from controlplane.apiserver.server import ServerOptions, running_server
from controlplane.store.sqlite import SqliteStore
from pyk import pki
from pyk.api.kinds import CONFIG_MAP, EVENT
from pyk.api.objects import name_of
from pyk.client.client import Client
from pyk.client.config import load_kubeconfig
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.clock import RealClock
from pyk.reconcile.controller import Controller

PATIENCE_SECONDS = 20


class Server:
    """An API server that can be stopped and started on its port and its data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = RealClock()
        self.port = 0
        self._running = AsyncExitStack()

    async def start(self) -> None:
        options = ServerOptions(self.folder / "pki", port=self.port)
        store = SqliteStore(self.folder / "store.db", clock=self.clock)
        self.port = await self._running.enter_async_context(running_server(store, options, self.clock))

    async def stop(self) -> None:
        await self._running.aclose()
        self._running = AsyncExitStack()

    async def compact(self) -> None:
        """Forget the history, as happens to one who is away for long. Only while stopped."""
        store = SqliteStore(self.folder / "store.db", clock=self.clock)
        await store.open()
        await store.compact(await store.revision())
        await store.close()

    def client(self) -> Client:
        credentials = (self.folder / "pki" / f"admin.{end}" for end in ("crt", "key"))
        path = self.folder / "kubeconfig"
        pki.write_kubeconfig(path, f"https://127.0.0.1:{self.port}", self.folder / "pki" / "ca.crt", *credentials)
        return Client(load_kubeconfig(path))


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    pki.ensure_cluster_pki(tmp_path / "pki", server_addresses=["127.0.0.1"])
    made = Server(tmp_path)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with server.client() as made:
        yield made


async def wait_for(check: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not check():
            await asyncio.sleep(0.02)


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, "data": data}


@pytest.fixture
async def informer(client: Client) -> AsyncIterator[Informer]:
    made = Informer(client, CONFIG_MAP, clock=RealClock(), namespace="default")
    task = asyncio.create_task(made.run())
    await asyncio.wait_for(made.wait_synced(), PATIENCE_SECONDS)
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_informer_follows_additions_changes_and_removals(client: Client, informer: Informer) -> None:
    informer.add_index("colour", lambda obj: [(obj.get("data") or {}).get("colour", "")])
    seen: list[tuple[str, str]] = []

    def note(old: Any, new: Any) -> None:
        kind = "added" if old is None else "removed" if new is None else "changed"
        seen.append((kind, name_of(new or old)))

    informer.add_handler(note)
    await client.create(CONFIG_MAP, config_map("a", colour="red"))
    await wait_for(lambda: informer.get("default/a"))
    assert [name_of(obj) for obj in informer.by_index("colour", "red")] == ["a"]
    await client.patch(CONFIG_MAP, "a", "default", {"data": {"colour": "blue"}})
    await wait_for(lambda: informer.by_index("colour", "blue"))
    assert informer.by_index("colour", "red") == []
    await client.delete(CONFIG_MAP, "a", "default")
    await wait_for(lambda: informer.get("default/a") is None)
    assert [event for event in seen if event[1] == "a"] == [("added", "a"), ("changed", "a"), ("removed", "a")]


@pytest.mark.parametrize("loses_history", [False, True])
async def test_an_informer_survives_a_restart_and_a_lost_history(
    server: Server, client: Client, informer: Informer, loses_history: bool
) -> None:
    for name in ("stays", "goes"):
        await client.create(CONFIG_MAP, config_map(name))
    await wait_for(lambda: informer.get("default/goes"))
    removed: list[str] = []
    informer.add_handler(lambda old, new: removed.append(name_of(old)) if new is None else None)

    await server.stop()
    await server.start()
    async with server.client() as other:
        await other.delete(CONFIG_MAP, "goes", "default")
        await other.create(CONFIG_MAP, config_map("new"))
    if loses_history:
        await server.stop()
        await server.compact()
        await server.start()

    await wait_for(lambda: informer.get("default/new") and not informer.get("default/goes"))
    assert informer.get("default/stays") is not None
    assert removed == ["goes"]


async def test_an_object_made_anew_under_its_name_is_a_removal_and_an_addition(
    server: Server, client: Client, informer: Informer
) -> None:
    first = await client.create(CONFIG_MAP, config_map("again"))
    await wait_for(lambda: informer.get("default/again"))
    uids: list[tuple[str | None, str | None]] = []
    informer.add_handler(
        lambda old, new: (
            uids.append((old and old["metadata"]["uid"], new and new["metadata"]["uid"]))
            if name_of(new or old) == "again"
            else None
        )
    )
    uids.clear()
    await client.delete(CONFIG_MAP, "again", "default")
    second = await client.create(CONFIG_MAP, config_map("again"))
    await wait_for(lambda: len(uids) == 2)
    assert uids == [(first["metadata"]["uid"], None), (None, second["metadata"]["uid"])]


async def test_a_failing_handler_keeps_nothing_from_the_others(client: Client, informer: Informer) -> None:
    seen: list[str] = []

    def fails(old: Any, new: Any) -> None:
        raise RuntimeError("a handler's own fault")

    informer.add_handler(lambda old, new: seen.append(name_of(new or old)))
    informer._handlers.insert(0, fails)
    await client.create(CONFIG_MAP, config_map("told"))
    await wait_for(lambda: "told" in seen)


async def test_a_slow_loop_sees_the_latest_state_of_every_key(client: Client, informer: Informer) -> None:
    seen: dict[str, str] = {}

    async def reconcile(key: str) -> None:
        await asyncio.sleep(0.05)
        obj = informer.get(key)
        seen[key] = "" if obj is None else (obj.get("data") or {}).get("v", "")

    controller = Controller("slow", reconcile, clock=RealClock(), workers=2)
    controller.watches(informer)
    task = asyncio.create_task(controller.run())
    for name in ("a", "b", "c"):
        await client.create(CONFIG_MAP, config_map(name, v="0"))
    for value in range(1, 10):
        for name in ("a", "b", "c"):
            await client.patch(CONFIG_MAP, name, "default", {"data": {"v": str(value)}})
    await wait_for(lambda: [seen.get(f"default/{name}") for name in "abc"] == ["9"] * 3)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_same_event_again_raises_its_count(client: Client) -> None:
    recorder = EventRecorder(client, "tester", "here", clock=RealClock())
    task = asyncio.create_task(recorder.run())
    obj = await client.create(CONFIG_MAP, config_map("told-of"))
    for _ in range(3):
        recorder.event(obj, "Warning", "Broken", "it is broken")
    recorder.event(obj, "Normal", "Mended", "it is mended")

    async def counts() -> dict[str, int]:
        listed = await client.list(EVENT, "default", field_selector="involvedObject.name=told-of")
        return {event["reason"]: event["count"] for event in listed.items}

    async with asyncio.timeout(PATIENCE_SECONDS):
        while await counts() != {"Broken": 3, "Mended": 1}:
            await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
