"""Tokens of pods: one request each, renewed in time, kept while the server is away, forgotten with the pod."""

from __future__ import annotations

from typing import Any

import pytest

from agent.volumes.tokens import RETRY_SECONDS, Tokens, TokenUnavailable
from pyk.api.status import ApiError, not_found
from pyk.reconcile.clock import VirtualClock, timestamp

SOURCE = {"path": "token", "expirationSeconds": 1000}
POD = {
    "metadata": {"name": "p", "namespace": "a", "uid": "u"},
    "spec": {
        "serviceAccountName": "robot",
        "volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": SOURCE}]}}],
    },
}


class Server:
    """A client that answers token requests."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.requests: list[dict[str, Any]] = []
        self.error: ApiError | None = None

    async def create(self, kind: Any, obj: Any, **where: str) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        self.requests.append({**obj["spec"], **where})
        expires = timestamp(self.clock.time() + obj["spec"]["expirationSeconds"])
        return {"status": {"token": f"t{len(self.requests)}", "expirationTimestamp": expires}}


async def test_a_token_is_asked_for_once_and_renewed_before_it_expires() -> None:
    clock = VirtualClock()
    server, changed = Server(clock), []
    tokens = Tokens(server, clock, changed.append)  # type: ignore[arg-type]
    await tokens.ready(POD)
    await tokens.ready(POD)
    assert tokens.lookup("u", SOURCE) == "t1"
    assert server.requests == [
        {
            "expirationSeconds": 1000,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"},
            "namespace": "a",
            "subresource": "token",
            "name": "robot",
        }
    ]
    await clock.advance(790)
    assert changed == []
    await clock.advance(20)
    assert changed == ["u"]
    await tokens.ready(POD)
    assert tokens.lookup("u", SOURCE) == "t2"
    tokens.release("u")
    assert tokens.lookup("u", SOURCE) is None
    await clock.advance(2000)
    assert changed == ["u"]
    await tokens.close()


async def test_while_the_server_is_away_the_old_token_stays_as_long_as_it_is_good() -> None:
    clock = VirtualClock()
    server, changed = Server(clock), []
    tokens = Tokens(server, clock, changed.append)  # type: ignore[arg-type]
    await tokens.ready(POD)
    server.error = not_found("", "serviceaccounts", "robot")
    await clock.advance(900)
    await tokens.ready(POD)
    assert tokens.lookup("u", SOURCE) == "t1"
    await clock.advance(RETRY_SECONDS + 1)
    assert changed == ["u", "u"]
    await clock.advance(200)
    with pytest.raises(TokenUnavailable, match="not found"):
        await tokens.ready(POD)
    await tokens.close()
