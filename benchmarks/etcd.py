"""An etcd server of a benchmark's own, on loopback, without TLS (Debian's `etcd-server`)."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator

PATIENCE_SECONDS = 20


@contextlib.contextmanager
def etcd_server(directory: str) -> Iterator[str]:
    """Its HOST:PORT, when it takes connections; it is ended afterwards."""
    with socket.socket() as client, socket.socket() as peer:
        client.bind(("127.0.0.1", 0))
        peer.bind(("127.0.0.1", 0))
        port, peer_port = client.getsockname()[1], peer.getsockname()[1]
    client_url, peer_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer_port}"
    process = subprocess.Popen(
        [
            *("etcd", "--data-dir", directory, "--log-level", "error", "--logger", "zap"),
            *("--listen-client-urls", client_url, "--advertise-client-urls", client_url),
            *("--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url),
            *("--initial-cluster", f"default={peer_url}"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while socket.socket().connect_ex(("127.0.0.1", port)) != 0:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("etcd does not start")
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
