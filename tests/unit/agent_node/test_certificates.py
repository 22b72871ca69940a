"""When a node renews its certificates, and what the API servers are that its balancer uses."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.apiservers import api_servers
from agent.certificates import EARLIEST_SHARE, LATEST_SHARE, CertificateExpired, CertificateKeeper, seconds_left
from agent.node import Identity, NameTaken, check_ours
from pyk import csr, pki
from pyk.api import signers
from pyk.api.joining import INSTALLATION
from pyk.api.status import ApiError
from pyk.client.client import WatchEvent
from pyk.pki import RequestSigner
from pyk.reconcile.clock import VirtualClock

DAY = 86400.0


def held(begin: float, end: float, *names: str) -> csr.Held:
    return csr.Held("system:node:n1", begin, end, frozenset(names), b"")


@given(
    lifetime=st.floats(60, 366 * DAY),
    share=st.floats(EARLIEST_SHARE, LATEST_SHARE),
    passed=st.floats(0, 2),
)
def test_a_certificate_is_renewed_before_it_ends_and_not_all_the_time(
    lifetime: float, share: float, passed: float
) -> None:
    left = seconds_left(held(0.0, lifetime), (), share, passed * lifetime)
    assert left >= 0
    assert passed * lifetime + left <= max(passed, LATEST_SHARE) * lifetime * (1 + 1e-9)
    if passed < EARLIEST_SHARE * 0.99:
        assert left > 0


def test_a_certificate_for_other_addresses_is_renewed_at_once() -> None:
    assert seconds_left(held(0, DAY, "n1", "10.0.0.1"), ("n1", "10.0.0.1"), 0.8, 10.0) > 0
    assert seconds_left(held(0, DAY, "n1", "10.0.0.1"), ("n1", "10.0.0.2"), 0.8, 10.0) == 0
    assert seconds_left(None, (), 0.8, 10.0) == 0


class PlayedServer:
    """Approves and signs at once; refuses while `trouble` is not empty."""

    def __init__(self, signer: RequestSigner, clock: VirtualClock, lifetime: float) -> None:
        self._signer = signer
        self._clock = clock
        self._lifetime = lifetime
        self.trouble: list[Exception] = []
        self.signed: list[float] = []

    async def create(self, kind: Any, obj: Any) -> Any:
        if self.trouble:
            raise self.trouble.pop()
        now = self._clock.time()
        self.signed.append(now)
        spec = obj["spec"]
        pem = self._signer.sign(spec["request"], spec["usages"], now, now + self._lifetime)
        import base64

        status = {"certificate": base64.b64encode(pem).decode()}
        self._object = {**obj, "metadata": {"name": "csr-1", "resourceVersion": "1"}, "status": status}
        return {**self._object, "status": {}}

    async def watch(self, kind: Any, **_: Any) -> Any:
        yield WatchEvent("MODIFIED", self._object)


async def test_a_node_s_certificate_is_always_good_through_years_and_refusals(tmp_path: Path) -> None:
    clock = VirtualClock()
    pki.create_ca(tmp_path, clock=clock)
    server = PlayedServer(RequestSigner(tmp_path / "ca.crt", tmp_path / "ca.key"), clock, 365 * DAY)
    server.trouble = [ApiError(500, "InternalError", "not now"), ApiError(403, "Forbidden", "no")]
    keeper = CertificateKeeper(
        server,  # type: ignore[arg-type]
        clock,
        "n1",
        signers.KUBELET_SERVING,
        tmp_path / "serving.pem",
        names=lambda: ("n1", "10.0.0.1"),
    )
    task = asyncio.create_task(keeper.run())
    for _ in range(400):
        await asyncio.sleep(0.01)
        await clock.advance(60)
        if keeper.file.exists():
            break
    for _ in range(5 * 13):
        found = csr.read(keeper.file)
        assert found is not None
        assert found.not_before <= clock.time() < found.not_after
        assert found.names == {"n1", "10.0.0.1"}
        for _ in range(28):
            await clock.advance(DAY)
            await asyncio.sleep(0.002)
    assert keeper.file.stat().st_mode & 0o777 == 0o600
    assert 5 <= len(server.signed) <= 9, "about one in ten months"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_client_s_certificate_that_has_ended_is_told_in_one_line(tmp_path: Path) -> None:
    clock = VirtualClock()
    pki.create_ca(tmp_path, clock=clock)
    key, request = csr.make_request("n1")
    now = clock.time()
    pem = RequestSigner(tmp_path / "ca.crt", tmp_path / "ca.key").sign(request, ["client auth"], now - 900, now - 1)
    csr.write(tmp_path / "client.pem", pem, key)
    keeper = CertificateKeeper(None, clock, "n1", signers.KUBELET_CLIENT, tmp_path / "client.pem")  # type: ignore[arg-type]
    with pytest.raises(CertificateExpired, match=r"the certificate of node n1 has expired.*pyk token create"):
        await keeper.run()


def test_a_node_of_another_machine_is_not_taken_over() -> None:
    identity = Identity("n1", "10.0.0.1", 10250, installation="mine")
    check_ours(identity, {"metadata": {"annotations": {INSTALLATION: "mine"}}})
    check_ours(identity, {"metadata": {}})
    with pytest.raises(NameTaken, match="pyk node rm n1"):
        check_ours(identity, {"metadata": {"annotations": {INSTALLATION: "another's"}}})


def test_the_api_servers_are_those_behind_the_kubernetes_service() -> None:
    def slice_(namespace: str, service: str, *addresses: str, ready: bool = True) -> dict[str, Any]:
        return {
            "metadata": {"namespace": namespace, "labels": {"kubernetes.io/service-name": service}},
            "endpoints": [{"addresses": [address], "conditions": {"ready": ready}} for address in addresses],
            "ports": [{"name": "https", "port": 6443}],
        }

    slices = [
        slice_("default", "kubernetes", "10.0.0.2", "10.0.0.1"),
        slice_("default", "kubernetes", "10.0.0.3", ready=False),
        slice_("default", "web", "10.0.0.4"),
        slice_("other", "kubernetes", "10.0.0.5"),
    ]
    assert api_servers(slices) == [("10.0.0.1", 6443), ("10.0.0.2", 6443)]
