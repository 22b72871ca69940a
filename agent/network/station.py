"""A place on the pod network for `pyk net check`: a namespace of the agent's own, attached as a pod's is.

It has an address of the node's range, a link on the bridge and the rules of a pod that no policy selects; a listener in
it says the node's name to whoever connects, and it connects to others. It is there while somebody checks, at most
`LONGEST_SECONDS`; what an agent that was killed left of it goes with the next one's `restore`.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import TypeVar

import dns.exception
import dns.message

from agent.network.contract import NetworkFailure, PodNetwork
from agent.runtime import syscalls
from pyk.api.objects import Object
from pyk.netlink import in_namespace
from pyk.reconcile.clock import Clock

UID = "net-check"
PORT = 4240
LONGEST_SECONDS = 60.0
ANSWER_SECONDS = 2.0
_POD: Object = {"metadata": {"namespace": "", "name": UID, "uid": UID}, "spec": {"containers": []}}
_Result = TypeVar("_Result")


class Station:
    """The place, of which there is at most one; several who check share it."""

    def __init__(self, network: PodNetwork, node_name: str, clock: Clock) -> None:
        self._network = network
        self._node_name = node_name
        self._clock = clock
        self._namespace = -1
        self._servers: list[asyncio.Server] = []
        self._users = 0
        self._deadline = 0.0
        self._lock = asyncio.Lock()
        self._is_open = asyncio.Event()

    async def run(self) -> None:
        """Close what nobody came back to close, until cancelled."""
        try:
            while True:
                await self._is_open.wait()
                await self._clock.sleep(max(self._deadline - self._clock.monotonic(), 0.0))
                if self._clock.monotonic() >= self._deadline:
                    self._users = 0
                    await self.close()
        finally:
            await self._take_down()

    async def open(self) -> list[str]:
        """Be there: its addresses. Raises `NetworkFailure`."""
        async with self._lock:
            self._users += 1
            self._deadline = self._clock.monotonic() + LONGEST_SECONDS
            if not self._is_open.is_set():
                try:
                    await self._set_up()
                except BaseException:
                    self._users -= 1
                    await self._take_down()
                    raise
                self._is_open.set()
            return self._network.addresses(UID)

    async def close(self) -> None:
        """One who checks needs it no more; it goes with the last."""
        async with self._lock:
            self._users = max(self._users - 1, 0)
            if not self._users and self._is_open.is_set():
                self._is_open.clear()
                await self._take_down()

    async def ask(self, address: str, port: int) -> str:
        """What the listener at the address says. Raises OSError or TimeoutError when nobody does."""
        async with asyncio.timeout(ANSWER_SECONDS):
            made = await self._inside(lambda: _socket(address, socket.SOCK_STREAM))
            try:
                await asyncio.get_running_loop().sock_connect(made, (address, port))
                return (await asyncio.get_running_loop().sock_recv(made, 256)).decode(errors="replace")
            finally:
                made.close()

    async def resolve(self, server: str, name: str, kind: str) -> list[str]:
        """The addresses that a name server answers by UDP. Raises OSError, TimeoutError when it does not answer."""
        query = dns.message.make_query(name, kind)
        async with asyncio.timeout(ANSWER_SECONDS):
            made = await self._inside(lambda: _socket(server, socket.SOCK_DGRAM))
            try:
                loop = asyncio.get_running_loop()
                await loop.sock_connect(made, (server, 53))
                await loop.sock_sendall(made, query.to_wire())
                answer = dns.message.from_wire(await loop.sock_recv(made, 65535))
            except dns.exception.DNSException as error:
                raise OSError(str(error)) from error
            finally:
                made.close()
        return sorted(item.to_text() for rrset in answer.answer for item in rrset)

    async def _inside(self, action: Callable[[], _Result]) -> _Result:
        if self._namespace < 0:
            raise NetworkFailure("nobody has opened a check on this node")
        return await asyncio.to_thread(in_namespace, self._namespace, action)

    async def _set_up(self) -> None:
        self._namespace = await asyncio.to_thread(_new_namespace)
        addresses = await self._network.attach(UID, f"/proc/self/fd/{self._namespace}", _POD)
        listeners = [await self._inside(lambda each=each: _listener(each)) for each in addresses]  # type: ignore[misc]
        self._servers = [await asyncio.start_server(self._greet, sock=each) for each in listeners]

    async def _take_down(self) -> None:
        for server in self._servers:
            server.close()
        self._servers = []
        if self._namespace >= 0:
            os.close(self._namespace)
            self._namespace = -1
        if self._network.addresses(UID):
            await self._network.detach(UID)

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self._node_name.encode())
        writer.close()


def _socket(address: str, kind: int) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    made.setblocking(False)
    return made


def _listener(address: str) -> socket.socket:
    return socket.create_server((address, PORT), family=socket.AF_INET6 if ":" in address else socket.AF_INET)


def _new_namespace() -> int:
    """A file descriptor of a new network namespace, which lives as long as it or a link to it does."""
    made: list[int] = []

    def make() -> None:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        made.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    in_namespace("/proc/self/ns/net", make)  # in a thread of its own, which ends in the new one
    return made[0]
