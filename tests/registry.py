"""A real registry (Debian's docker-registry) and images made by umoci and skopeo, for tests."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

NEEDED = ("docker-registry", "skopeo", "umoci")
needs_registry = pytest.mark.skipif(
    any(shutil.which(program) is None for program in NEEDED),
    reason="Debian's docker-registry, skopeo and umoci are not installed: tests/debian-packages says why",
)


@contextlib.contextmanager
def registry(folder: Path, *, address: str = "127.0.0.1", **settings: Any) -> Iterator[str]:
    """A registry with its files in the folder: HOST:PORT while it runs. `settings` are parts of its configuration."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        place = f"{address}:{probe.getsockname()[1]}"
    folder.mkdir(parents=True, exist_ok=True)
    http = {"addr": place, **settings.pop("http", {})}
    config = {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}, "delete": {"enabled": True}},
        "http": http,
        **settings,
    }
    (folder / "config.yml").write_text(yaml.safe_dump(config))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    try:
        _wait(f"http{'s' if 'tls' in http else ''}://{place}/v2/", process, folder / "log")
        yield place
    finally:
        process.terminate()
        process.wait(10)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    import ssl

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5, context=context):
                return
        except urllib.error.HTTPError:  # it wants to know who asks: it is there
            return
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)


def run(*command: object) -> str:
    """Run a program: what it writes. Fails the test with what it complains of."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def make_image(folder: Path, layers: list[dict[str, str | None]], **config: str) -> Path:
    """An OCI layout made by umoci, with the tag `latest`: a layer for each of `layers`, files by their paths (None: the
    file or directory is removed). `config` are options of `umoci config`."""
    layout = folder / "layout"
    folder.mkdir(parents=True, exist_ok=True)
    run("umoci", "init", "--layout", layout)
    run("umoci", "new", "--image", f"{layout}:latest")
    for number, files in enumerate(layers):
        bundle = folder / f"bundle-{number}"
        run("umoci", "unpack", "--image", f"{layout}:latest", bundle)
        for name, text in files.items():
            path = bundle / "rootfs" / name
            if text is None:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
        run("umoci", "repack", "--image", f"{layout}:latest", bundle)
    options = [word for key, value in config.items() for word in (f"--config.{key}", value)]
    if options:
        run("umoci", "config", "--image", f"{layout}:latest", *options)
    return layout


def send(layout: Path, name: str, *options: str) -> None:
    """Send the layout's image to a registry by skopeo."""
    run(
        "skopeo",
        "--insecure-policy",
        "copy",
        "--dest-tls-verify=false",
        *options,
        f"oci:{layout}:latest",
        f"docker://{name}",
    )


def inspect(name: str) -> dict[str, Any]:
    """What skopeo finds at the registry."""
    found: dict[str, Any] = json.loads(run("skopeo", "inspect", "--tls-verify=false", "--config", f"docker://{name}"))
    return found
