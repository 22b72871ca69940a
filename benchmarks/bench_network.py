"""The pod network against links made by hand: `python -m benchmarks network`.

Two nodes are two network namespaces on a bridge. On the one pair of nodes runs the agent's own pod network (bridge,
routes or VXLAN, packet filter, a service), on the other the same links and routes made by hand without any rules.
One TCP connection; throughput is that of both directions in turn, latency the median of round trips of 64 bytes. Client
and server have a processor each. By hand and ours alternate in short rounds, each beginning where the other ended, and
the figure is the median of the rounds' ratios (1.0: as fast as by hand). Beside it stands the ratio of the processor
time that the two ends used, which other work on the machine disturbs least. Then the rules of 10,000 services are
loaded.
"""

from __future__ import annotations

import asyncio
import ctypes
import ipaddress
import json
import multiprocessing
import os
import resource
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.network.bridge import BridgeNetwork
from agent.network.endpoints import Place
from agent.network.policies import pod_fragment
from agent.network.rules import NodeRules
from agent.network.ruleset import Fragment
from agent.network.services import Surroundings, service_fragment, service_ports
from agent.network.tunnel import PORT as VXLAN_PORT
from agent.network.tunnel import tunnel_address
from pyk import netlink
from pyk.api.objects import Object
from pyk.netlink import Netlink, in_namespace
from pyk.network.policy import pod_facts

ROUNDS = 20
BYTES = 192 << 20
ROUND_TRIPS = 3000
SERVICES, ENDPOINTS = 10_000, 5
PODS, VIRTUAL = "10.7.0.0/16", "10.8.0.0/16"
SURROUNDINGS = Surroundings(Place("node1"), (PODS,))
MTU = 1500


class OpenFilter:
    """Lets every pod send and be sent to."""

    def __init__(self, rules: NodeRules) -> None:
        self._rules = rules

    async def admit(self, uid: str, pod: Object, addresses: Iterable[str], *, is_new: bool) -> None:
        facts = replace(pod_facts(pod), addresses=tuple(addresses))
        await self._rules.update({uid: pod_fragment(uid, facts, [], [], is_new=is_new)})

    async def remove(self, uid: str) -> None:
        await self._rules.update({uid: None})

    async def expect(self, live: Iterable[str]) -> None: ...


def service(number: int, endpoints: list[str]) -> Fragment:
    """The rules of a service at the number-th address, port 80."""
    document = {
        "metadata": {"namespace": "default", "name": f"s{number}"},
        "spec": {"clusterIP": str(ipaddress.IPv4Address("10.8.0.0") + number), "ports": [{"port": 80}]},
    }
    entries = [{"addresses": [address], "nodeName": "node2"} for address in endpoints]
    slices = [{"addressType": "IPv4", "ports": [{"port": 80}], "endpoints": entries}]
    return service_fragment(service_ports(document, slices, SURROUNDINGS.place), SURROUNDINGS)


def namespace(stack: ExitStack) -> str:
    """The path of a new network namespace, held by a process until the stack unwinds."""
    command = ["unshare", "--net", "sh", "-c", "echo ready; exec sleep 600"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    stack.callback(process.wait)
    stack.callback(process.kill)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    path = f"/proc/{process.pid}/ns/net"
    with Netlink(path) as link:
        link.execute(netlink.bring_up("lo"))
    return path


def join(outer: str, name: str, bridge: str, inner: str, addresses: dict[str, str]) -> None:
    """A pair between a bridge in `outer` and `eth0` of `inner`, with an address and its default route, if any."""
    descriptor = os.open(inner, os.O_RDONLY)
    with Netlink(outer) as link, Netlink(inner) as inside:
        link.execute(netlink.add_veth(name, "eth0", peer_namespace=descriptor, mtu=MTU))
        link.execute(*netlink.add_to_bridge(name, link.index_of(bridge)))
        inside.execute(netlink.bring_up("eth0"), netlink.add_address(inside.index_of("eth0"), addresses["address"]))
        if gateway := addresses.get("gateway"):
            inside.execute(netlink.add_route("0.0.0.0/0", gateway=gateway))
    os.close(descriptor)


def nodes(stack: ExitStack) -> list[str]:
    """Two nodes on one segment: 192.0.2.11 and 192.0.2.12."""
    segment = namespace(stack)
    with Netlink(segment) as link:
        link.execute(netlink.add_bridge("br0", mac="0a:58:00:00:00:01", mtu=MTU))
    made = [namespace(stack), namespace(stack)]
    for number, node in enumerate(made, 1):
        join(segment, f"n{number}", "br0", node, {"address": f"192.0.2.1{number}/24"})
    return made


def pods_by_hand(stack: ExitStack, made: list[str], *, tunnel: bool) -> list[str]:
    """Two pods on the first node and one on the second: a bridge, pairs, and a route or a tunnel between the nodes."""
    places = []
    for number, node in enumerate(made, 1):
        other = 3 - number
        with Netlink(node) as link:
            link.execute(netlink.add_bridge("br0", mac=f"0a:58:00:00:01:0{number}", mtu=MTU))
            link.execute(netlink.add_address(link.index_of("br0"), f"10.7.{number}.1/24"))
            if tunnel:
                own = f"192.0.2.1{number}"
                vtep = netlink.add_vxlan("vx0", 7, local=own, port=VXLAN_PORT, mac=tunnel_address(own), mtu=1450)
                link.execute(vtep, netlink.bring_up("vx0"))
                vx, mac = link.index_of("vx0"), tunnel_address(f"192.0.2.1{other}")
                link.execute(netlink.add_forwarding(vx, mac, f"192.0.2.1{other}"))
                link.execute(netlink.add_neighbour(vx, f"10.7.{other}.1", mac))
                link.execute(netlink.add_route(f"10.7.{other}.0/24", gateway=f"10.7.{other}.1", link=vx, onlink=True))
            else:
                link.execute(netlink.add_route(f"10.7.{other}.0/24", gateway=f"192.0.2.1{other}"))
        in_namespace(node, lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1"))
        for host in (2, 3) if number == 1 else (2,):
            pod = namespace(stack)
            join(node, f"p{host}", "br0", pod, {"address": f"10.7.{number}.{host}/24", "gateway": f"10.7.{number}.1"})
            if tunnel:
                with Netlink(pod) as inside:
                    inside.execute(netlink.set_mtu("eth0", 1450))
            places.append(pod)
    return places


def pods_of_ours(stack: ExitStack, made: list[str], *, tunnel: bool) -> list[str]:
    """The same pods on nodes with the agent's pod network, each in a process of its own."""
    places = [namespace(stack) for _ in range(3)]
    for number, node in enumerate(made, 1):
        mine = places[:2] if number == 1 else places[2:]
        told = {"number": number, "pods": mine, "backend": "vxlan" if tunnel else "host-routes"}

        def start(told: dict[str, Any] = told) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-m", "benchmarks.bench_network", json.dumps(told)]
            return subprocess.Popen(command, stdout=subprocess.PIPE)

        process = in_namespace(node, start)
        stack.callback(process.wait)
        stack.callback(process.kill)
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise SystemExit("a node of ours did not start")
    return places


async def be_a_node(told: dict[str, Any]) -> None:
    """What the process of a node does."""
    number = told["number"]
    rules = NodeRules(pod_ranges=[PODS], service_ranges=[VIRTUAL])
    with tempfile.TemporaryDirectory() as folder:
        network = BridgeNetwork(
            node_name=f"node{number}",
            node_ips=[f"192.0.2.1{number}"],
            cluster_cidrs=[PODS],
            service_cidrs=[VIRTUAL],
            state_dir=Path(folder),
            rules=rules,
            pod_filter=OpenFilter(rules),
            backend=told["backend"],
        )
        await network.start()
        await network.set_pod_cidrs([f"10.7.{number}.0/24"])
        await network.sync_routes(
            {
                "metadata": {"name": f"node{each}"},
                "spec": {"podCIDRs": [f"10.7.{each}.0/24"]},
                "status": {"addresses": [{"type": "InternalIP", "address": f"192.0.2.1{each}"}]},
            }
            for each in (1, 2)
        )
        for index, pod in enumerate(told["pods"]):
            document = {"metadata": {"namespace": "default", "name": f"p{index}"}, "spec": {"containers": []}}
            await network.attach(f"uid-{index}", pod, document)
        await rules.update({"service/near": service(1, ["10.7.1.3"]), "service/far": service(2, ["10.7.2.2"])})
        print("ready", flush=True)
        await asyncio.Event().wait()


def serve(path: str, ready: Any) -> None:
    """In a pod: on port 80, swallow so many bytes, send so many, or answer so often, and say what processor it took."""
    server = in_namespace(path, lambda: socket.create_server(("0.0.0.0", 80)))
    pin(1)
    ready.set()
    while True:
        accepted, _ = server.accept()
        with accepted:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while order := accepted.recv(9, socket.MSG_WAITALL):
                kind, count = struct.unpack("=cQ", order)
                started = time.process_time()
                if kind == b"r":
                    send(accepted, count)
                elif kind == b"s":
                    receive(accepted, count)
                else:
                    for _ in range(count):
                        accepted.sendall(accepted.recv(64))
                accepted.sendall(struct.pack("=d", time.process_time() - started))


def pin(number: int) -> None:
    """Have this process on one of the processors that it may use."""
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {allowed[number % len(allowed)]})


BUFFER = bytearray(1 << 18)


def send(over: socket.socket, count: int) -> None:
    for _ in range(0, count, len(BUFFER)):
        over.sendall(BUFFER)


def receive(over: socket.socket, count: int) -> None:
    while count:
        size = over.recv_into(BUFFER, min(count, len(BUFFER)))
        if not size:
            raise SystemExit("the connection ended early")
        count -= size


def connect(path: str, address: str) -> socket.socket:
    made = in_namespace(path, lambda: socket.create_connection((address, 80), timeout=60))
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def ordered(over: socket.socket, kind: bytes, count: int, work: Callable[[], float]) -> tuple[float, float]:
    """What the work gave, and the seconds of processor of both ends."""
    started = time.process_time()
    over.sendall(struct.pack("=cQ", kind, count))
    result = work()
    mine = time.process_time() - started
    (its,) = struct.unpack("=d", over.recv(8, socket.MSG_WAITALL))
    return result, mine + its


def throughput(over: socket.socket) -> tuple[float, float]:
    """Seconds and processor time of so many bytes there and back."""

    def timed(move: Callable[[socket.socket, int], None]) -> float:
        started = time.perf_counter()
        move(over, BYTES)
        return time.perf_counter() - started

    there, back = ordered(over, b"s", BYTES, lambda: timed(send)), ordered(over, b"r", BYTES, lambda: timed(receive))
    return there[0] + back[0], there[1] + back[1]


def latency(over: socket.socket) -> tuple[float, float]:
    """Seconds of a round trip, the median, and processor time of all."""

    def timed() -> float:
        took = []
        for _ in range(ROUND_TRIPS):
            started = time.perf_counter()
            over.sendall(bytes(64))
            over.recv(64)
            took.append(time.perf_counter() - started)
        return statistics.median(took)

    return ordered(over, b"e", ROUND_TRIPS, timed)


def compare(
    name: str, measure: Callable[[socket.socket], tuple[float, float]], plain: tuple[str, str], ours: tuple[str, str]
) -> None:
    """Alternately by hand and ours; a ratio above 1 is better for ours."""
    rounds = []
    with connect(*plain) as first, connect(*ours) as second:
        measure(first), measure(second)
        for number in range(ROUNDS):
            if number % 2:
                other, one = measure(second), measure(first)
            else:
                one, other = measure(first), measure(second)
            rounds.append((one, other))
    ratio = statistics.median(one[0] / other[0] for one, other in rounds)
    processor = statistics.median(one[1] / other[1] for one, other in rounds)
    by_hand, of_ours = (statistics.median(each[which][0] for each in rounds) for which in (0, 1))
    shown = f"{by_hand * 1e6:.0f} us, {of_ours * 1e6:.0f} us"
    if measure is throughput:
        shown = f"{BYTES * 16 / by_hand / 1e9:.2f}, {BYTES * 16 / of_ours / 1e9:.2f} Gbit/s"
    figures = f"by hand, ours: {shown:20} ratio {ratio:.2f}, of processor time {processor:.2f}"
    print(f"{name:38} {measure.__name__:10} {figures}", flush=True)


def traffic() -> None:
    """Throughput and latency, pod to pod and through a service."""
    everywhere = os.sched_getaffinity(0)
    for tunnel in (False, True):
        with ExitStack() as stack:
            plain = pods_by_hand(stack, nodes(stack), tunnel=tunnel)
            ours = pods_of_ours(stack, nodes(stack), tunnel=tunnel)
            for path in (*plain[1:], *ours[1:]):
                ready = multiprocessing.Event()
                process = multiprocessing.Process(target=serve, args=(path, ready), daemon=True)
                process.start()
                stack.callback(process.join)
                stack.callback(process.kill)
                ready.wait(10)
            pin(0)
            stack.callback(os.sched_setaffinity, 0, everywhere)
            way = "VXLAN" if tunnel else "routes"
            for measure in (throughput, latency):
                if not tunnel:
                    compare("pod to pod, one node", measure, (plain[0], "10.7.1.3"), (ours[0], "10.7.1.3"))
                    compare("pod to service, one node", measure, (plain[0], "10.7.1.3"), (ours[0], "10.8.0.1"))
                far = (plain[0], "10.7.2.2")
                compare(f"pod to pod, two nodes, {way}", measure, far, (ours[0], "10.7.2.2"))
                compare(f"pod to service, two nodes, {way}", measure, far, (ours[0], "10.8.0.2"))


async def load() -> None:
    """The rules of many services: one transaction, and one endpoint's change."""
    rules = NodeRules(pod_ranges=[PODS], service_ranges=[VIRTUAL])
    await rules.start()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time(), time.monotonic()
    wanted: dict[str, Fragment | None] = {
        f"service/{number}": service(
            number, [str(ipaddress.IPv4Address("10.7.0.0") + number * ENDPOINTS + each) for each in range(ENDPOINTS)]
        )
        for number in range(1, SERVICES + 1)
    }
    await rules.update(wanted)
    took, waited = time.process_time() - started[0], time.monotonic() - started[1]
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    many = f"{SERVICES} services, {SERVICES * ENDPOINTS} endpoints"
    print(f"{many}: {waited:.2f} s ({took:.2f} s of processor), {more:.0f} MiB more")
    for least, what in ((5, "an endpoint more or less"), (4, "... past a power of two")):
        changes = []
        for number in range(200):
            endpoints = [f"10.7.255.{each}" for each in range(2, 2 + least + number % 2)]
            wanted = {"service/77": service(77, endpoints)}
            started_one = time.perf_counter()
            await rules.update(wanted)
            changes.append(time.perf_counter() - started_one)
        changes.sort()
        least_ms, median, worst = (changes[at] * 1e3 for at in (0, 100, 197))
        print(f"{what} among them: at best {least_ms:.2f} ms, median {median:.2f} ms, p99 {worst:.2f} ms")
    await rules.close()


def main() -> None:
    if len(sys.argv) > 1:
        asyncio.run(be_a_node(json.loads(sys.argv[1])))
        return
    traffic()
    if ctypes.CDLL(None).unshare(0x40000000) != 0:
        raise SystemExit("cannot make a network namespace")
    asyncio.run(load())


if __name__ == "__main__":
    main()
