"""Measure the stores: `python -m benchmarks.bench_store [--engine sqlite|etcd] [--endpoint HOST:PORT]`.

Prints, per engine, rates of creates, compare-and-swap updates, gets, deletes and listed entries, with the CPU time
of this process an operation. 600-byte values, 64 callers in flight unless said otherwise. Without `--endpoint` an
etcd server is started on loopback in a temporary directory (Debian's `etcd-server`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import uvloop

from benchmarks.etcd import etcd_server
from controlplane.store import open_store
from controlplane.store.contract import Store, StoreUnavailable
from pyk.reconcile.clock import RealClock

VALUE_BYTES = 600
ENTRIES = 12_800


async def measure(
    name: str, total: int, in_flight: int, operation: Callable[[int], Awaitable[object]], *, unit: str = "/s"
) -> None:
    """Run `operation` for 0..total-1 with `in_flight` callers; print rate and CPU time."""
    numbers = iter(range(total))
    latencies: list[float] = []

    async def caller() -> None:
        for number in numbers:
            begin = time.perf_counter()
            await operation(number)
            latencies.append(time.perf_counter() - begin)

    begin, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller() for _ in range(in_flight)))
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu
    latencies.sort()
    median, worst = latencies[len(latencies) // 2], latencies[len(latencies) * 99 // 100]
    print(
        f"  {name:<34}{total / seconds:>9,.0f}{unit}  {cpu_seconds / total * 1e6:>6.0f} us CPU each"
        f"  p50 {median * 1e3:.2f} ms  p99 {worst * 1e3:.2f} ms"
    )


async def bench(store: Store) -> None:
    """Measure an open, empty store."""
    value = os.urandom(VALUE_BYTES)
    prefix = "/registry/pods/default/"
    revisions = [0] * ENTRIES

    async def create(number: int) -> None:
        revisions[number] = await store.create(f"{prefix}pod-{number}", value)

    async def update(number: int) -> None:
        revisions[number] = await store.update(f"{prefix}pod-{number}", value, revisions[number])

    async def get(number: int) -> None:
        await store.get(f"{prefix}pod-{number % ENTRIES}")

    async def delete(number: int) -> None:
        await store.delete(f"{prefix}pod-{number}", revisions[number])

    start = await store.revision()
    await measure("creates, 1 in flight", 500, 1, lambda number: store.create(f"/registry/one/{number}", value))
    await measure("creates, 64 in flight", ENTRIES, 64, create)
    await measure("updates, 64 in flight", ENTRIES, 64, update)
    await measure("updates, 256 in flight", ENTRIES, 256, update)
    await measure("gets, 1 in flight", 500, 1, get)
    await measure("gets, 64 in flight", ENTRIES, 64, get)

    async def list_all(prefix: str, limit: int) -> int:
        page = await store.list(prefix, limit=limit)
        return len(page.entries)

    for limit in (500, 0):
        begin, entries = time.perf_counter(), 0
        for _ in range(10):
            entries += await list_all(prefix, limit)
        seconds = time.perf_counter() - begin
        what = f"list of {limit}" if limit else f"list of all {ENTRIES}"
        print(f"  {what:<34}{entries / seconds:>9,.0f} entries/s  {seconds / 10 * 1e3:.2f} ms each")

    begin, events = time.perf_counter(), 0
    async with aclosing(store.watch(prefix, after=start)) as watch:
        while events < 3 * ENTRIES:
            events += len((await anext(watch)).events)
    print(f"  {'watch from the past':<34}{events / (time.perf_counter() - begin):>9,.0f} events/s")
    await measure("deletes, 64 in flight", ENTRIES, 64, delete)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["sqlite", "etcd"], help="measure only this one")
    parser.add_argument("--endpoint", help="measure this etcd, which should be empty")
    arguments = parser.parse_args()
    async with contextlib.AsyncExitStack() as stack:
        for engine in [arguments.engine] if arguments.engine else ["sqlite", "etcd"]:
            directory = stack.enter_context(tempfile.TemporaryDirectory())
            if engine == "sqlite":
                store = open_store("sqlite", path=Path(directory) / "store.db", clock=RealClock())
            else:
                endpoint = arguments.endpoint or stack.enter_context(etcd_server(f"{directory}/etcd"))
                store = open_store("etcd", endpoints=[endpoint], clock=RealClock())
            try:
                await store.open()
                print(f"{engine}:")
                await bench(store)
            except StoreUnavailable as error:
                raise SystemExit(f"bench_store: {error}") from None
            finally:
                await store.close()


if __name__ == "__main__":
    uvloop.run(main())
