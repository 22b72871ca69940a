"""What HTTP alone costs on this machine at this hour: `python -m benchmarks.yardstick`.

A server with one trivial handler and nothing behind it, in a process of its own, under the load generator that the API
server is measured with. Machines drift by a factor of three within a day: figures of different hours can be compared
only after each has been divided by the yardstick of its own hour.
"""

from __future__ import annotations

import argparse
import asyncio
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path

import orjson
import uvloop
from aiohttp import web

from benchmarks import bench_api
from benchmarks.processes import free_port
from pyk import pki


async def answer(message: web.BaseRequest) -> web.StreamResponse:
    """A POST's document decoded and encoded; `ok` to anything else."""
    if message.method == "POST":
        return web.Response(body=orjson.dumps(orjson.loads(await message.read())), content_type="application/json")
    return web.Response(body=b"ok")


async def serve(port: int, folder: Path) -> None:
    """Serve TLS on `port` until killed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "apiserver.crt", folder / "apiserver.key")
    runner = web.ServerRunner(web.Server(answer, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context).start()
    await asyncio.get_running_loop().create_future()


async def measure(port: int, folder: Path, process: subprocess.Popen[bytes], requests: int) -> None:
    """Print the rates of GETs, and of POSTs of a pod."""
    context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    bench = bench_api.Bench(port, context, process)
    gets = (bench_api.request("GET", "/") for _ in range(requests))
    print((await bench.run("yardstick: GET over TLS", gets, 32, 200, len)).line(), flush=True)
    posts = (bench_api.request("POST", "/", bench_api.pod("web")) for _ in range(requests))
    print((await bench.run("yardstick: POST over TLS", posts, 32, 200, len)).line(), flush=True)


def run(requests: int = 10_000) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="pyk-yardstick-") as directory:
        folder = Path(directory)
        pki.ensure_cluster_pki(folder, server_addresses=["127.0.0.1"])
        port = free_port()
        process = subprocess.Popen([sys.executable, "-m", "benchmarks.yardstick", "--serve", str(port), directory])
        try:
            bench_api.wait_for_port(port, process)
            uvloop.run(measure(port, folder, process, requests))
        finally:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", nargs=2, metavar=("PORT", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve(int(options.serve[0]), Path(options.serve[1])))
    else:
        run()


if __name__ == "__main__":
    main()
