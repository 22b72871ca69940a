"""Would answers in protobuf pay? `python -m benchmarks.bench_protobuf [--pods 500]`.

Go clients ask for protobuf before JSON and take either. The server keeps every object as its JSON bytes, so an answer
in JSON is those bytes, joined. One in protobuf has to be made: each time, or once for each write and then be kept
beside the JSON. Both are done here for the pods of a real server with an encoder driven by the schema that bodies are
read with; every message is read back and compared. Printed are processor times for one pod and sizes.
"""

from __future__ import annotations

import argparse
import base64
import calendar
import ssl
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import uvloop

from benchmarks.bench_api import Bench, pod, request, start_server
from controlplane.apiserver.protobuf import Field, parse_protobuf, schema
from pyk import pki
from pyk.api.objects import Object

_REPEATS = 20


def _varint(value: int) -> bytes:
    value &= 0xFFFF_FFFF_FFFF_FFFF
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _framed(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _numbered(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _seconds(text: str) -> bytes:
    return _numbered(1, calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")))


def _content(kind: str, value: Any) -> bytes:
    """A value that has a length in front of it."""
    if kind == "string":
        return bytes(value.encode())
    if kind == "bytes":
        return base64.b64decode(value)
    if kind == "quantity":
        return _framed(1, str(value).encode())
    if kind == "time":
        return _seconds(value)
    if kind == "json":
        return _framed(1, orjson.dumps(value))
    if kind == "strings":
        return b"".join(_framed(1, item.encode()) for item in value)
    if kind == "intorstring":
        if isinstance(value, int):
            return _numbered(1, 0) + _numbered(2, value)
        return _numbered(1, 1) + _framed(3, value.encode())
    return encode_struct(kind, value)


def _one(number: int, field: Field, value: Any) -> bytes:
    if field.type in ("int", "bool"):
        return _numbered(number, int(value))
    return _framed(number, _content(field.type, value))


def encode_struct(struct: str, document: Object) -> bytes:
    """The message of a document. Raises KeyError for a struct that the schema lacks."""
    parts: list[bytes] = []
    for number, field in schema()[struct].items():
        if not field.name:
            parts.append(_framed(number, encode_struct(field.type, document)))
            continue
        value = document.get(field.name)
        if value is None:
            continue
        if field.is_map:
            for key, item in value.items():
                parts.append(_framed(number, _framed(1, key.encode()) + _framed(2, _content(field.type, item))))
        elif field.is_list:
            parts.extend(_one(number, field, item) for item in value)
        else:
            parts.append(_one(number, field, value))
    return b"".join(parts)


def enveloped(document: Object) -> bytes:
    """A core/v1 object as a client reads it."""
    types = _framed(1, document["apiVersion"].encode()) + _framed(2, document["kind"].encode())
    return b"k8s\x00" + _framed(1, types) + _framed(2, encode_struct(f"core.{document['kind']}", document))


def cpu_of(work: Callable[[], object]) -> float:
    """Processor seconds of the fastest of some runs."""
    best = float("inf")
    for _ in range(_REPEATS):
        started = time.process_time()
        work()
        best = min(best, time.process_time() - started)
    return best


async def real_pods(bench: Bench, count: int) -> list[Object]:
    """Pods as the server has them after a client created them."""
    path = "/api/v1/namespaces/default/pods"
    await bench.run(
        "",
        (request("POST", path, pod(f"web-{i}"), "User-Agent: bench\r\n") for i in range(count)),
        8,
        201,
        orjson.loads,
    )
    connection = await bench.connect()
    _, body = await connection.ask(request("GET", path))
    return [{"kind": "Pod", "apiVersion": "v1", **item} for item in orjson.loads(body)["items"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pods", type=int, default=500)
    options = parser.parse_args()
    options.store, options.etcd_endpoints = "sqlite", ""
    with tempfile.TemporaryDirectory(prefix="pyk-bench-") as name:
        folder = Path(name)
        pki.ensure_cluster_pki(folder / "pki", server_addresses=["127.0.0.1"])
        process, port = start_server(folder, options)
        try:
            context = ssl.create_default_context(cafile=str(folder / "pki/ca.crt"))
            context.load_cert_chain(folder / "pki/admin.crt", folder / "pki/admin.key")
            pods = uvloop.run(real_pods(Bench(port, context, process), options.pods))
        finally:
            process.terminate()
            process.wait()
    stored = [orjson.dumps(each) for each in pods]
    messages = [enveloped(each) for each in pods]
    for given, message in zip(pods, messages, strict=True):
        if parse_protobuf(message) != given:
            raise SystemExit(f"a message was read back differently: {parse_protobuf(message)}")
    count = len(pods)
    joined = cpu_of(lambda: b",".join(stored))
    parsed = cpu_of(lambda: [orjson.loads(each) for each in stored])
    encoded = cpu_of(lambda: [enveloped(each) for each in pods])
    each = 1e6 / count
    print(f"JSON     {sum(map(len, stored)) / count:5.0f} bytes a pod, kept; {joined * each:6.2f} us to join them")
    print(f"protobuf {sum(map(len, messages)) / count:5.0f} bytes a pod; ", end="")
    print(f"{parsed * each:6.2f} us to read the JSON, {encoded * each:6.2f} us to encode")


if __name__ == "__main__":
    main()
