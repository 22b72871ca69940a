"""The command line's small client: kept connections that the server closed, and servers that are gone."""

from __future__ import annotations

import socket
import threading

import pytest

from pyk.client.blocking import BlockingClient, ServerUnreachable
from pyk.client.config import ClientConfig

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


def serve(listener: socket.socket, connections: int) -> threading.Thread:
    """Answer one request on each of so many connections, and close each; then close the listener."""

    def run() -> None:
        for _ in range(connections):
            accepted, _ = listener.accept()
            with accepted:
                accepted.recv(65536)
                accepted.sendall(ANSWER)
        listener.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.fixture
def listener() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def client_of(listener: socket.socket) -> BlockingClient:
    return BlockingClient(ClientConfig(server=f"http://127.0.0.1:{listener.getsockname()[1]}"))


def test_a_connection_that_the_server_closed_is_made_again(listener: socket.socket) -> None:
    client = client_of(listener)
    thread = serve(listener, 2)
    assert client.json("GET", "/api") == {}
    assert client.json("GET", "/api") == {}
    thread.join()


def test_a_server_that_went_away_between_requests_is_said_to_be_unreachable(listener: socket.socket) -> None:
    client = client_of(listener)
    thread = serve(listener, 1)
    assert client.json("GET", "/api") == {}
    thread.join()
    for _ in range(2):
        with pytest.raises(ServerUnreachable, match="cannot reach the cluster"):
            client.json("GET", "/api")


def test_a_write_is_not_sent_twice(listener: socket.socket) -> None:
    client = client_of(listener)
    thread = serve(listener, 2)
    assert client.json("GET", "/api") == {}
    with pytest.raises(ServerUnreachable):
        client.json("POST", "/api", body={})
    assert client.json("GET", "/api") == {}
    thread.join()
