"""The agent's side of a spawner that dies: it always comes back to one, whenever that was and whatever goes wrong."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from agent.runtime.cgroups import Cgroups
from agent.runtime.native import NativeRuntime
from agent.runtime.wire import PROTOCOL, encode

ANSWERS: dict[str, Any] = {
    "hello": {"protocol": PROTOCOL, "pid": os.getpid()},
    "list_removed": {},
    "list_containers": [],
}


class Spawners:
    """Spawners that follow each other on one socket. `dies_with` are the operations with whose answer one dies, in the
    same breath; the last one lives."""

    def __init__(self, dies_with: list[str]) -> None:
        self._dies_with = dies_with
        self.count = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.count += 1
        last = self._dies_with.pop(0) if self._dies_with else ""
        try:
            while True:
                length, _ = struct.unpack("=IB", await reader.readexactly(5))
                request = json.loads(await reader.readexactly(length))
                writer.write(encode({"id": request["id"], "result": ANSWERS[request["op"]]}))
                if request["op"] == last:
                    return
        except asyncio.IncompleteReadError:
            return
        finally:
            writer.close()


@asynccontextmanager
async def connected(folder: Path, spawners: Spawners) -> AsyncIterator[NativeRuntime]:
    server = await asyncio.start_unix_server(spawners.serve, folder / "spawner.sock")
    runtime = NativeRuntime(folder, cgroups=cast(Cgroups, None))
    try:
        await runtime.start()
        yield runtime
    finally:
        await runtime.close()
        server.close()


async def told(runtime: NativeRuntime) -> None:
    """Until it says that there was another spawner."""
    async with asyncio.timeout(10):
        async for event in runtime.events():
            if event.kind == "lost-connection":
                return


async def test_one_that_dies_in_the_breath_of_its_first_answers_is_followed_by_another(tmp_path: Path) -> None:
    spawners = Spawners(["list_containers", "list_removed", "hello", "list_removed"])
    async with connected(tmp_path, spawners) as runtime:
        assert await runtime.list_containers() == []
        await told(runtime)
        assert await runtime.list_containers() == []
        assert spawners.count == 5


async def test_a_node_without_descriptors_comes_back_to_its_spawner_when_it_has_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawners = Spawners(["list_containers"])
    async with connected(tmp_path, spawners) as runtime:
        real, refused = socket.socket, []

        def scarce(*arguments: Any, **options: Any) -> socket.socket:
            if arguments[:1] == (socket.AF_UNIX,) and len(refused) < 2:
                refused.append(True)
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return real(*arguments, **options)

        monkeypatch.setattr("agent.runtime.native.socket.socket", scarce)
        await runtime.list_containers()
        await told(runtime)
        assert await runtime.list_containers() == []
        assert len(refused) == 2
