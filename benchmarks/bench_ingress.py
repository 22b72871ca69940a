"""The ingress proxy against its backend asked directly: requests a second, processor time and added latency.

    python -m benchmarks ingress

Backend and proxy are a process each, the load a third, all on loopback; the backend answers 100 bytes. Direct and
proxied rounds alternate, so that the machine's mood is the same for both.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import cast

import uvloop

from benchmarks.processes import free_port

ROUNDS = 5
SECONDS = 2.0
CONNECTIONS = 32
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\n" + b"x" * 100
_REQUEST = b"GET /some/path HTTP/1.1\r\nHost: web.example\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"


class Backend(asyncio.Protocol):
    """Answers every request, as fast as a process can."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write: Callable[[bytes], None] = cast(asyncio.WriteTransport, transport).write

    def data_received(self, data: bytes) -> None:
        self._write(_ANSWER * data.count(b"\r\n\r\n"))


def serve_backend(port: int, pipe: Connection) -> None:
    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(Backend, "127.0.0.1", port)
        pipe.send("ready")
        await server.serve_forever()

    uvloop.run(run())


def serve_proxy(port: int, backend: int, pipe: Connection) -> None:
    """Serve 1,000 Ingresses of two rules; tell the processor seconds so far whenever asked."""
    from ingress.certificates import Certificates
    from ingress.endpoints import Endpoint, Upstream
    from ingress.forward import Forwarder
    from ingress.routes import Table
    from ingress.server import Options, listening
    from ingress.status import Place
    from pyk.reconcile.clock import RealClock
    from pyk.reconcile.process import collect_less

    def ingress(number: int) -> dict[str, object]:
        to = {"service": {"name": "web", "port": {"number": 80}}}
        paths = [{"path": path, "pathType": "Prefix", "backend": to} for path in ("/", "/some")]
        metadata = {"name": f"i{number}", "namespace": "d", "creationTimestamp": "2026-01-01T00:00:00Z"}
        host = f"h{number}.example" if number else "web.example"
        return {"metadata": metadata, "spec": {"rules": [{"host": host, "http": {"paths": paths}}]}}

    def tell_time() -> None:
        pipe.recv()
        pipe.send(time.process_time())

    async def run() -> None:
        clock = RealClock()
        table, upstream = Table(ingress(number) for number in range(1000)), Upstream((Endpoint("127.0.0.1", backend),))
        forwarder = Forwarder(table.match, lambda named: upstream, clock)
        options = Options(Place("d", "p", "", ""), "127.0.0.1", port, 0)
        async with listening(forwarder, Certificates(clock).listener, options, clock):
            asyncio.get_running_loop().add_reader(pipe.fileno(), tell_time)
            pipe.send("ready")
            await asyncio.get_running_loop().create_future()

    collect_less()
    uvloop.run(run())


async def load(port: int, connections: int) -> tuple[float, float]:
    """Requests a second, and the median latency in seconds."""
    latencies: list[float] = []
    end = time.monotonic() + SECONDS

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.monotonic() < end:
            began = time.perf_counter()
            writer.write(_REQUEST)
            head = await reader.readuntil(b"\r\n\r\n")
            assert b" 200 " in head
            await reader.readexactly(100)
            latencies.append(time.perf_counter() - began)
        writer.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    return len(latencies) / SECONDS, statistics.median(latencies)


def main() -> None:
    ports = {"direct": free_port(), "proxied": free_port()}
    context = multiprocessing.get_context("fork")
    (ours, theirs), (proxy_pipe, its) = multiprocessing.Pipe(), multiprocessing.Pipe()
    processes = [
        context.Process(target=serve_backend, args=(ports["direct"], theirs)),
        context.Process(target=serve_proxy, args=(ports["proxied"], ports["direct"], its)),
    ]
    for process in processes:
        process.start()
    try:
        ours.recv()
        proxy_pipe.recv()
        for connections in (1, CONNECTIONS):
            rates: dict[str, list[float]] = {way: [] for way in ports}
            medians: dict[str, list[float]] = {way: [] for way in ports}
            cpu = requests = 0.0
            for _ in range(ROUNDS):
                for way, port in ports.items():
                    proxy_pipe.send("cpu")
                    before = proxy_pipe.recv()
                    rate, median = uvloop.run(load(port, connections))
                    proxy_pipe.send("cpu")
                    rates[way].append(rate)
                    medians[way].append(median)
                    spent = proxy_pipe.recv() - before
                    if way == "proxied":
                        cpu += spent
                        requests += rate * SECONDS
            direct, proxied = (statistics.median(rates[way]) for way in ports)
            added = statistics.median(medians["proxied"]) - statistics.median(medians["direct"])
            print(
                f"{connections} under way: {proxied:,.0f} requests/s proxied, {direct:,.0f}/s direct,"
                f" {cpu / requests * 1e6:.0f} us of the proxy's processor each, {added * 1e3:.2f} ms added (median)",
                flush=True,
            )
    finally:
        for process in processes:
            os.kill(process.pid or 0, 9)
            process.join()


if __name__ == "__main__":
    main()
