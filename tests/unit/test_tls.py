"""A certificate that is renewed while a server and its clients run: nobody restarts, and open connections go on."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest
import uvloop

from pyk import pki
from pyk.tls import RenewingContext, client_context, server_context


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pki.create_ca(tmp_path)
    for name in ("server", "client"):
        issue(tmp_path, name)
    return tmp_path


def issue(folder: Path, name: str) -> None:
    pki.issue(folder, name, ip_addresses=["127.0.0.1"], usages=("server", "client"), path_prefix=folder / name)


def serial(connection: asyncio.StreamWriter) -> str:
    return str(connection.get_extra_info("peercert")["serialNumber"])


async def serve_and_renew(folder: Path) -> None:
    seen: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(serial(writer))
        while line := await reader.readline():
            writer.write(line)

    context = server_context(folder / "server.crt", folder / "server.key", folder / "ca.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    own = client_context((folder / "ca.crt").read_bytes())
    own.show(folder / "client.crt", folder / "client.key")
    port = server.sockets[0].getsockname()[1]

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=own)
        await echo(reader, writer)
        return reader, writer

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"here\n")
        assert await reader.readline() == b"here\n"

    first = await connect()
    before = serial(first[1])
    issue(folder, "server")
    issue(folder, "client")
    second = await connect()
    assert serial(second[1]) != before, "the server shows its new certificate"
    assert seen[1] != seen[0], "and the client its own"
    (folder / "server.crt").write_bytes(b"half a certif")
    third = await connect()
    assert serial(third[1]) == serial(second[1]), "what cannot be loaded is passed over"
    await echo(*first)
    for _, writer in (first, second, third):
        writer.close()
    server.close()


def test_a_renewed_certificate_is_shown_from_the_next_connection_on(folder: Path) -> None:
    asyncio.run(serve_and_renew(folder))


def test_the_same_on_the_loop_that_components_run_on(folder: Path) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve_and_renew(folder))


def test_a_pair_that_does_not_fit_is_refused_at_the_start(folder: Path) -> None:
    with pytest.raises(ssl.SSLError):
        RenewingContext(ssl.PROTOCOL_TLS_CLIENT).show(folder / "client.crt", folder / "server.key")
