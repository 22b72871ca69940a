"""Requests made up from the server's own OpenAPI documents: whatever comes, it answers soon, and not with a fault.

schemathesis makes valid and invalid requests for every operation that is documented; which ones are tried within
`BUDGET_SECONDS` depends on the seed, which a failure prints (PYK_FUZZ_SEED takes it back).
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from controlplane.apiserver.server import ServerOptions, running_server
from controlplane.store.sqlite import SqliteStore
from pyk.reconcile.clock import RealClock

BUDGET_SECONDS = 45.0
ANSWER_SECONDS = 10.0
_EXAMPLES = 4


@pytest.fixture
def server_url(cluster_pki: Path, tmp_path: Path) -> Iterator[str]:
    """A server on a thread and loop of its own: requests of the test are blocking."""
    started, stop = threading.Event(), asyncio.Event()
    found: dict[str, Any] = {}

    async def serve() -> None:
        clock = RealClock()
        found["loop"] = asyncio.get_running_loop()
        async with running_server(
            SqliteStore(tmp_path / "store.db", clock=clock), ServerOptions(cluster_pki, port=0), clock
        ) as port:
            found["url"] = f"https://127.0.0.1:{port}"
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert started.wait(30)
    yield found["url"]
    found["loop"].call_soon_threadsafe(stop.set)
    thread.join(30)
    assert not thread.is_alive()


@pytest.fixture
def session(cluster_pki: Path) -> Iterator[requests.Session]:
    with requests.Session() as made:
        made.trust_env = False  # the environment's authorities are not the cluster's
        made.verify = str(cluster_pki / "ca.crt")
        made.cert = (str(cluster_pki / "admin.crt"), str(cluster_pki / "admin.key"))
        yield made


def _operations(session: requests.Session, url: str) -> list[Any]:
    index = session.get(f"{url}/openapi/v3", timeout=ANSWER_SECONDS).json()
    found = []
    for place in index["paths"].values():
        document = session.get(url + place["serverRelativeURL"], timeout=ANSWER_SECONDS).json()
        schema = schemathesis.openapi.from_dict(document)
        found += [result.ok() for result in schema.get_all_operations()]
    return found


def _is_own_fault(answer: requests.Response) -> bool:
    """A 5xx, but for a version that has not happened, which is the client's to wait for."""
    return answer.status_code >= 500 and b"ResourceVersionTooLarge" not in answer.content


@pytest.mark.timeout(180)
def test_no_request_by_the_schema_makes_the_server_fail_or_hang(server_url: str, session: requests.Session) -> None:
    number = int(os.environ.get("PYK_FUZZ_SEED") or random.SystemRandom().randrange(1 << 32))
    operations = _operations(session, server_url)
    assert len(operations) > 100
    random.Random(number).shuffle(operations)
    deadline = time.monotonic() + BUDGET_SECONDS
    failures: list[str] = []
    tried = 0

    def try_one(case: Any) -> None:
        nonlocal tried
        if time.monotonic() > deadline:
            return
        request = case.as_transport_kwargs(base_url=server_url)
        what = (
            f"{request['method']} {request['url']} {request.get('params')} {request.get('json', request.get('data'))!r}"
        )
        tried += 1
        try:
            # What streams says so by its header; its body is not waited for.
            with session.request(**request, stream=True, timeout=ANSWER_SECONDS, allow_redirects=False) as answer:
                if _is_own_fault(answer):
                    failures.append(f"{answer.status_code} {answer.text[:300]}: {what[:1500]}")
        except requests.Timeout:
            failures.append(f"no answer within {ANSWER_SECONDS:.0f} s: {what[:1500]}")

    for operation in operations:
        if time.monotonic() > deadline or len(failures) > 5:
            break
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            run = given(operation.as_strategy(generation_mode=mode))(try_one)
            run = settings(
                max_examples=_EXAMPLES,
                phases=[Phase.generate],
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            )(run)
            try:
                seed(number)(run)()
            except (schemathesis.errors.SchemathesisError, Unsatisfiable):
                continue  # nothing of that mode can be made for the operation
    assert not failures, f"PYK_FUZZ_SEED={number}\n" + "\n".join(failures)
    assert tried > 20
    assert session.get(f"{server_url}/readyz", timeout=ANSWER_SECONDS).text == "ok"
