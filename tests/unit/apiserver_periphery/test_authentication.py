"""Who sends a request: certificates, tokens, nobody."""

from __future__ import annotations

import base64
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, make_mocked_request

from controlplane.apiserver.authentication import ANONYMOUS, Authenticator, UserInfo, user_of_subject
from pyk import pki
from pyk.api.signers import BACKDATE_SECONDS
from pyk.api.status import ApiError

TOKENS = 'secret-1,alice,u1,"dev,ops"\n\nsecret-2,bob,u2\n'


@pytest.fixture(scope="module")
def pki_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("authentication") / "pki"
    pki.ensure_cluster_pki(folder, server_addresses=[])
    pki.ensure_node_pki(folder, folder / "n1", "n1", ["127.0.0.1"])
    (folder / "tokens.csv").write_text(TOKENS)
    return folder


@pytest.fixture
def authenticator(pki_dir: Path) -> Authenticator:
    return Authenticator(pki_dir / "ca.crt", pki_dir / "tokens.csv")


def with_header(value: str, name: str = "Authorization") -> web.BaseRequest:
    return make_mocked_request("GET", "/", headers={name: value})


@pytest.mark.parametrize("header", ["Bearer secret-1", "bearer   secret-1"])
async def test_a_token_is_its_owner(authenticator: Authenticator, header: str) -> None:
    user = await authenticator.authenticate(with_header(header))
    assert user == UserInfo("alice", "u1", ("dev", "ops", "system:authenticated"))


async def test_a_token_without_groups_is_just_authenticated(authenticator: Authenticator) -> None:
    user = await authenticator.authenticate(with_header("Bearer secret-2"))
    assert user == UserInfo("bob", "u2", ("system:authenticated",))


@pytest.mark.parametrize("header", ["Bearer nobody's", "Bearer secret", "Bearer secret-11", "Bearer secret-1 x"])
async def test_a_token_that_nobody_owns_is_refused(authenticator: Authenticator, header: str) -> None:
    with pytest.raises(ApiError) as raised:
        await authenticator.authenticate(with_header(header))
    assert (raised.value.code, raised.value.reason) == (401, "Unauthorized")


@pytest.mark.parametrize("header", ["", "Basic YTpi", "Bearer", "Bearer "])
async def test_whoever_shows_nothing_is_anonymous(authenticator: Authenticator, header: str) -> None:
    assert await authenticator.authenticate(with_header(header)) == ANONYMOUS


async def test_a_browser_shows_its_token_as_a_sub_protocol(authenticator: Authenticator) -> None:
    encoded = base64.urlsafe_b64encode(b"secret-1").decode().rstrip("=")
    protocols = f"base64url.bearer.authorization.k8s.io.{encoded}, v5.channel.k8s.io"
    user = await authenticator.authenticate(with_header(protocols, "Sec-WebSocket-Protocol"))
    assert user.name == "alice"


class Shown:
    """A request over a connection whose client showed a certificate."""

    def __init__(self, user: str, not_before: str) -> None:
        subject = ((("organizationName", "system:nodes"),), (("commonName", user),))
        self._certificate = {"subject": subject, "notBefore": not_before, "issuer": (), "serialNumber": "1"}
        self.transport = self
        self.headers: dict[str, str] = {}

    def get_extra_info(self, name: str) -> object:
        return self._certificate if name == "peercert" else self

    def getpeercert(self, binary_form: bool) -> bytes:
        return b"the certificate"


@pytest.mark.parametrize(
    ("user", "made", "is_good"),
    [
        ("system:node:gone", "Nov 25 11:59:59 2026 GMT", False),
        ("system:node:gone", "Nov 25 12:00:01 2026 GMT", True),
        ("system:node:other", "Nov 25 11:59:59 2026 GMT", True),
        ("gone", "Nov 25 11:59:59 2026 GMT", True),
    ],
)
async def test_what_a_node_got_before_it_was_removed_is_void(
    pki_dir: Path, user: str, made: str, is_good: bool
) -> None:
    removed_at = ssl.cert_time_to_seconds("Nov 25 12:00:00 2026 GMT")
    authenticator = Authenticator(pki_dir / "ca.crt", voided_until={"gone": removed_at, "other": 0.0}.__getitem__)
    not_before = ssl.cert_time_to_seconds(made) - BACKDATE_SECONDS
    text = time.strftime("%b %d %H:%M:%S %Y GMT", time.gmtime(not_before))
    request = Shown(user, text)
    if is_good:
        assert (await authenticator.authenticate(request)).name == user  # type: ignore[arg-type]
        return
    with pytest.raises(ApiError, match="was removed from the cluster") as raised:
        await authenticator.authenticate(request)  # type: ignore[arg-type]
    assert raised.value.code == 401


@pytest.mark.parametrize("row", ["token-only\n", "token,user\n", ",user,uid\n"])
def test_a_row_that_is_no_token_is_named(pki_dir: Path, tmp_path: Path, row: str) -> None:
    path = tmp_path / "tokens.csv"
    path.write_text("a,b,c\n" + row)
    with pytest.raises(ValueError, match="line 2"):
        Authenticator(pki_dir / "ca.crt", path)


def test_a_subject_without_common_name_is_nobody() -> None:
    assert user_of_subject(((("organizationName", "system:masters"),),), "X509SHA256=0") is None


@pytest.fixture
async def server(authenticator: Authenticator, pki_dir: Path) -> AsyncIterator[TestServer]:
    async def whoami(request: web.Request) -> web.Response:
        user = await authenticator.authenticate(request)
        return web.json_response({"name": user.name, "groups": list(user.groups)})

    app = web.Application()
    app.router.add_get("/", whoami)
    server = TestServer(app, scheme="https", host="127.0.0.1")
    await server.start_server(ssl=authenticator.server_context(pki_dir / "apiserver.crt", pki_dir / "apiserver.key"))
    yield server
    await server.close()


async def ask(server: TestServer, pki_dir: Path, certificate: str = "", token: str = "") -> dict[str, object]:
    context = ssl.create_default_context(cafile=str(pki_dir / "ca.crt"))
    if certificate:
        context.load_cert_chain(pki_dir / f"{certificate}.crt", pki_dir / f"{certificate}.key")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
        session.get(server.make_url("/"), headers=headers) as response,
    ):
        found: dict[str, object] = await response.json()
        return found


@pytest.mark.parametrize(
    ("certificate", "token", "name", "groups"),
    [
        ("admin", "", "kubernetes-admin", ["system:masters", "system:authenticated"]),
        ("n1/client", "", "system:node:n1", ["system:nodes", "system:authenticated"]),
        ("scheduler", "", "system:kube-scheduler", ["system:authenticated"]),
        ("scheduler", "nonsense", "system:kube-scheduler", ["system:authenticated"]),
        ("", "secret-2", "bob", ["system:authenticated"]),
        ("", "", "system:anonymous", ["system:unauthenticated"]),
    ],
)
async def test_a_client_certificate_is_its_subject(
    server: TestServer, pki_dir: Path, certificate: str, token: str, name: str, groups: list[str]
) -> None:
    assert await ask(server, pki_dir, certificate, token) == {"name": name, "groups": groups}


async def test_a_certificate_for_servers_identifies_no_client(server: TestServer, pki_dir: Path) -> None:
    with pytest.raises(aiohttp.ClientError):
        await ask(server, pki_dir, "n1/kubelet")


async def test_a_certificate_of_another_authority_is_refused(server: TestServer, pki_dir: Path, tmp_path: Path) -> None:
    pki.create_ca(tmp_path)
    forged = tmp_path / "forged"
    pki.issue(tmp_path, "kubernetes-admin", organizations=("system:masters",), path_prefix=forged)
    context = ssl.create_default_context(cafile=str(pki_dir / "ca.crt"))
    context.load_cert_chain(f"{forged}.crt", f"{forged}.key")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(server.make_url("/"))
