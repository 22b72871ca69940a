"""The node's name server: answers a second of one core, and whether its process still does its other work meanwhile.

    python -m benchmarks DNS

The server is a process with 1,000 Services of 5 endpoints each; another process keeps 64 questions under way by UDP on
loopback. The figures are the server's processor time an answer, what comes of it in a second when both share the
machine, and the lag of a timer of 10 ms in the server's event loop, which stands for the other work of an agent; before
that the lag without questions, which is the machine's.
"""

from __future__ import annotations

import asyncio
import ipaddress
import multiprocessing
import os
import socket
import tempfile
import time
from collections.abc import Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import dns.message
import uvloop

from agent.dns.answering import Answering
from agent.dns.forward import Forwarder
from agent.dns.names import ClusterNames, service_addresses, slice_addresses, slice_service
from agent.dns.server import DnsServer
from pyk.api.objects import Object, key_of
from pyk.reconcile.clock import RealClock

SERVICES, ENDPOINTS = 1000, 5
SECONDS = 4.0
UNDER_WAY = 64
_TICK_SECONDS = 0.01


class Cache:
    """An informer's reading side."""

    def __init__(self, objects: Iterable[Object], **indexes: Any) -> None:
        self._objects = {key_of(obj): obj for obj in objects}
        self._indexes: dict[str, dict[str, list[Object]]] = {}
        for name, function in indexes.items():
            found = self._indexes[name] = {}
            for obj in self._objects.values():
                for value in function(obj):
                    found.setdefault(value, []).append(obj)

    def get(self, key: str) -> Object | None:
        return self._objects.get(key)

    def by_index(self, index: str, value: str) -> list[Object]:
        return self._indexes[index].get(value, [])


def names() -> ClusterNames:
    """Half of the Services have an address, half lead to their endpoints."""
    services, slices = [], []
    for number in range(SERVICES):
        name, address = f"s{number}", f"10.96.{number // 250}.{number % 250 + 1}"
        ports = [{"name": "http", "port": 80, "protocol": "TCP"}]
        spec = {"clusterIP": "None", "ports": ports}
        if number % 2:
            spec = {"clusterIP": address, "clusterIPs": [address], "ports": ports}
        services.append({"metadata": {"name": name, "namespace": "shop"}, "spec": spec})
        endpoints = [{"addresses": [f"10.{n + 100}.{number // 250}.{number % 250 + 1}"]} for n in range(ENDPOINTS)]
        metadata = {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": name}}
        slices.append({"metadata": metadata, "addressType": "IPv4", "endpoints": endpoints, "ports": ports})
    return ClusterNames(
        Cache(services, address=service_addresses),
        Cache(slices, address=slice_addresses, dns=slice_service),
        Cache([{"metadata": {"name": "shop"}}]),
        "cluster.local",
    )


def serve(port: int, pipe: Connection) -> None:
    """Answer until told; then tell processor seconds and lags. A word `change` makes all kept answers old."""
    version = 0

    async def run() -> None:
        nonlocal version
        clock = RealClock()
        folder = Path(tempfile.mkdtemp(prefix="pyk-bench-dns-"))
        (folder / "resolv.conf").write_text("")
        answering = Answering(
            names(),
            Forwarder(folder / "resolv.conf", [], clock),
            [ipaddress.ip_network("10.96.0.0/12")],
            lambda: True,
            clock,
            lambda: version,
        )
        server = asyncio.create_task(DnsServer(answering, ["127.0.0.1"], port=port).run())
        lags: list[float] = []
        began, told = time.process_time(), asyncio.Event()
        asyncio.get_running_loop().add_reader(pipe.fileno(), told.set)
        pipe.send("ready")
        while True:
            before = time.monotonic()
            await asyncio.sleep(_TICK_SECONDS)
            lags.append(time.monotonic() - before - _TICK_SECONDS)
            if told.is_set():
                told.clear()
                word = pipe.recv()
                if word == "end":
                    break
                version += 1
                if word == "begin":
                    lags.clear()
                    began = time.process_time()
                else:
                    lags.sort()
                    pipe.send((time.process_time() - began, lags[len(lags) * 99 // 100]))
        server.cancel()
        await asyncio.wait([server])

    uvloop.run(run())


def load(port: int, questions: list[bytes]) -> int:
    """Keep questions under way for a while: how many were answered."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", port))
        client.settimeout(1)
        count, end = 0, time.monotonic() + SECONDS
        for number in range(UNDER_WAY):
            client.send(questions[number % len(questions)])
        while time.monotonic() < end:
            client.recv(2048)
            client.send(questions[(count + UNDER_WAY) % len(questions)])
            count += 1
        return count


def question(name: str, kind: str = "A") -> bytes:
    return dns.message.make_query(name, kind, use_edns=0, id=1).to_wire()


def main() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("fork").Process(target=serve, args=(port, theirs))
    server.start()
    ours.recv()
    zone = "shop.svc.cluster.local"
    cases = {
        "addresses of services, that come again": [question(f"s{n}.{zone}") for n in range(1, SERVICES, 2)],
        "names outside, with a search domain, that come again": [question(f"e{n}.example.{zone}") for n in range(500)],
        "names outside, with a search domain, each once": [question(f"n{n}.example.{zone}") for n in range(40_000)],
        "addresses of 5 endpoints (never kept)": [question(f"s{n}.{zone}") for n in range(0, SERVICES, 2)],
        "SRV of 5 endpoints (never kept)": [question(f"_http._tcp.s{n}.{zone}", "SRV") for n in range(0, SERVICES, 2)],
    }
    try:
        ours.send("begin")
        time.sleep(SECONDS)
        ours.send("told")
        print(f"no questions: timer lag p99 {ours.recv()[1] * 1000:.1f} ms", flush=True)
        for title, questions in cases.items():
            ours.send("begin")
            count = load(port, questions)
            ours.send("told")
            cpu, lag = ours.recv()
            print(
                f"{title}: {count / SECONDS:,.0f}/s, {cpu / count * 1e6:.0f} us of processor each,"
                f" timer lag p99 {lag * 1000:.1f} ms",
                flush=True,
            )
    finally:
        ours.send("end")
        server.join(5)
        if server.is_alive():
            os.kill(server.pid or 0, 9)


if __name__ == "__main__":
    main()
