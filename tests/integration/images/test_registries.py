"""Pulling from and pushing to a real registry, with images that other programs made, and when things go wrong."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import stat
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from agent.images.archives import load
from agent.images.image import ImageUnavailable
from agent.images.manifest import OCI_INDEX, OCI_MANIFEST, Platform, digest_of
from agent.images.pull import Puller, Step
from agent.images.push import push
from agent.images.registries import Credential, RegistriesFile
from agent.images.store import ImageStore
from pyk import pki
from pyk.reconcile.clock import RealClock
from tests.registry import inspect, make_image, needs_registry, registry, run, send

pytestmark = [pytest.mark.root, needs_registry]

FILES: list[dict[str, str | None]] = [
    {"etc/motd": "one", "etc/gone": "x", "opt/tool/a": "a", "opt/tool/b": "b"},
    {"etc/motd": "two", "etc/gone": None, "opt/tool": None},
    {"opt/tool/c": "c"},
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registry(tmp_path_factory.mktemp("registry")) as found:
        yield found


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_image(tmp_path_factory.mktemp("image"), FILES, cmd="/bin/app", env="A=b", user="7")


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images", RealClock())


def puller(store: ImageStore, settings: dict[str, Any] | None = None, **options: Any) -> Puller:
    file = store.image_dir.parent / "registries.yaml"
    file.write_text(json.dumps(settings or {}))  # JSON is YAML
    return Puller(store, RegistriesFile(file), RealClock(), **options)


def secret(place: str, name: str, password: str) -> dict[str, Any]:
    auth = base64.b64encode(f"{name}:{password}".encode()).decode()
    config = json.dumps({"auths": {place: {"auth": auth}}}).encode()
    return {"data": {".dockerconfigjson": base64.b64encode(config).decode()}}


async def test_an_image_of_several_layers_is_pulled_with_what_they_hide(
    place: str, layout: Path, store: ImageStore
) -> None:
    send(layout, f"{place}/team/app:1")
    steps: list[Step] = []
    image = await puller(store, watcher=steps.append).pull(f"{place}/team/app:1")
    assert (image.config.command, image.config.user) == (("/bin/app",), "7")
    assert "A=b" in image.config.environment
    top, middle, bottom = image.layers
    assert (bottom / "etc/motd").read_text() == "one"
    assert (middle / "etc/motd").read_text() == "two"
    hidden = (middle / "etc/gone").lstat()
    assert stat.S_ISCHR(hidden.st_mode)
    assert hidden.st_rdev == 0
    assert (top / "opt/tool/c").read_text() == "c"
    assert {step.what for step in steps} == {"waiting", "downloading", "unpacking", "done"}
    assert store.get(f"{place}/team/app@{image.digest}") == image
    assert image.image_id == f"{place}/team/app@{image.digest}"
    assert [path.suffix for path in (store.image_dir / "downloads").iterdir() if path.suffix != ".lock"] == []
    again: list[Step] = []
    assert await puller(store, watcher=again.append).pull(f"{place}/team/app:1") == await _same(store, place)
    assert {step.what for step in again} == {"waiting", "exists"}


async def _same(store: ImageStore, place: str) -> Any:
    return store.get(f"{place}/team/app:1")


async def test_zstd_layers_are_read(place: str, layout: Path, store: ImageStore) -> None:
    send(layout, f"{place}/team/zstd:1", "--dest-compress-format", "zstd")
    image = await puller(store).pull(f"{place}/team/zstd:1")
    assert (image.layers[1] / "etc/motd").read_text() == "two"


async def test_an_index_gives_the_image_for_this_machine(place: str, layout: Path, store: ImageStore) -> None:
    send(layout, f"{place}/team/multi:plain")
    async with aiohttp.ClientSession() as session:
        url = f"http://{place}/v2/team/multi/manifests"
        async with session.get(f"{url}/plain", headers={"Accept": OCI_MANIFEST}) as answer:
            content = await answer.read()
        here = Platform.here()
        ours = {"mediaType": OCI_MANIFEST, "digest": digest_of(content), "size": len(content)}
        entry = {**ours, "platform": {"os": "linux", "architecture": here.architecture}}
        other = {**ours, "platform": {"os": "linux", "architecture": "s390x"}}
        for tag, entries in (("both", [other, entry]), ("foreign", [other])):
            index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
            headers = {"Content-Type": OCI_INDEX}
            async with session.put(f"{url}/{tag}", json=index, headers=headers) as answer:
                assert answer.status == 201, await answer.text()
    image = await puller(store).pull(f"{place}/team/multi:both")
    assert image.digest not in ("", digest_of(content))
    with pytest.raises(ImageUnavailable, match=rf"no match for platform .*{here.architecture}.* there is linux/s390x"):
        await puller(store).pull(f"{place}/team/multi:foreign")


async def test_what_is_not_there_is_told_in_the_registry_s_words(place: str, store: ImageStore) -> None:
    with pytest.raises(
        ImageUnavailable, match=r"failed to pull and unpack image .*MANIFEST_UNKNOWN.*not found"
    ) as raised:
        await puller(store).pull(f"{place}/team/none:1")
    assert raised.value.reason == "ErrImagePull"
    with pytest.raises(ImageUnavailable, match=r"connect: connection refused"):
        await puller(store).pull("127.0.0.1:1/team/none:1")


async def test_a_name_and_password_open_a_registry_and_only_pods_that_have_them_get_the_image(
    tmp_path: Path, layout: Path, store: ImageStore
) -> None:
    (tmp_path / "users").write_text("me:$2b$04$NhAXwvKWmRqKAYBE3KfszOcHwjZREld786Y0eRqL72Gg2BvqMn36a\n")  # "secret"
    auth = {"htpasswd": {"realm": "test", "path": str(tmp_path / "users")}}
    with registry(tmp_path / "private", auth=auth) as private:
        send(layout, f"{private}/app:1", "--dest-creds", "me:secret")
        name = f"{private}/app:1"
        store.source = puller(store)
        with pytest.raises(ImageUnavailable, match="no basic auth credentials"):
            await store.resolve(name, "IfNotPresent")
        with pytest.raises(ImageUnavailable, match="UNAUTHORIZED"):
            await store.resolve(name, "IfNotPresent", [secret(private, "me", "wrong")])
        good = [secret(private, "me", "wrong"), secret(private, "me", "secret")]
        image, pulled = await store.resolve(name, "IfNotPresent", good)
        assert pulled
        assert await store.resolve(name, "IfNotPresent", good) == (image, False)
        with pytest.raises(ImageUnavailable):  # it is here, but not for everybody
            await store.resolve(name, "IfNotPresent")
        with pytest.raises(ImageUnavailable) as raised:
            await store.resolve(name, "Never")
        assert raised.value.reason == "ErrImageNeverPull"
        node = puller(store, {"configs": {private: {"auth": {"username": "me", "password": "secret"}}}})
        await node.pull(name)
        assert await store.resolve(name, "IfNotPresent") == (store.get(name), False)


async def test_a_token_server_is_asked_for_the_scope(tmp_path: Path, layout: Path, store: ImageStore) -> None:
    pki.create_ca(tmp_path / "ca", "token-ca")
    authority = tmp_path / "ca/ca.crt"
    key = serialization.load_pem_private_key((tmp_path / "ca/ca.key").read_bytes(), None)
    certificate = x509.load_pem_x509_certificate(authority.read_bytes())
    der = base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()
    asked: list[tuple[str, str]] = []

    async def token(request: web.Request) -> web.Response:
        who = base64.b64decode(request.headers.get("Authorization", "")[6:]).decode().partition(":")[0]
        asked.append((who, request.query["scope"]))
        _, name, actions = request.query["scope"].split(":")
        granted = actions.split(",") if who == "me" else []
        now = int(time.time())
        claims = {
            "iss": "tokens",
            "sub": who,
            "aud": "registry",
            "nbf": now - 5,
            "iat": now,
            "exp": now + 300,
            "jti": "1",
        }
        claims["access"] = [{"type": "repository", "name": name, "actions": granted}]
        return web.json_response({"token": jwt.encode(claims, key, "ES256", headers={"x5c": [der]})})

    async with served([web.get("/token", token)]) as issuer:
        settings = {
            "realm": f"http://{issuer}/token",
            "service": "registry",
            "issuer": "tokens",
            "rootcertbundle": str(authority),
        }
        with registry(tmp_path / "private", auth={"token": settings}) as private:
            made = await asyncio.to_thread(load, store, layout, f"{private}/team/app:1")
            with pytest.raises(ImageUnavailable, match=r"40[13]"):
                await push(store, made[0].name, made[0].name, RegistriesFile(None), RealClock())
            digest = await push(
                store, made[0].name, made[0].name, RegistriesFile(None), RealClock(), credential=Credential("me", "x")
            )
            store.remove(made[0].name)
            image = await puller(store).pull(made[0].name, [secret(private, "me", "x")])
            assert image.digest == digest
    assert ("me", "repository:team/app:pull,push") in asked
    assert ("me", "repository:team/app:pull") in asked


async def test_a_mirror_is_asked_first_and_told_whose_image_is_wanted(
    place: str, layout: Path, store: ImageStore
) -> None:
    send(layout, f"{place}/cache/app:1")
    settings = {"mirrors": {"docker.io": {"endpoint": [f"http://{place}"], "rewrite": {"^library/(.*)": "cache/$1"}}}}
    image = await puller(store, settings).pull("docker.io/library/app:1")
    assert image.name == "docker.io/library/app:1"


async def test_tls_is_checked_against_the_given_authority(tmp_path: Path, layout: Path, store: ImageStore) -> None:
    pki.create_ca(tmp_path / "ca", "test-ca")
    pki.issue(tmp_path / "ca", "registry", ip_addresses=["127.0.0.1"], usages=("server",), path_prefix=tmp_path / "tls")
    tls = {"certificate": str(tmp_path / "tls.crt"), "key": str(tmp_path / "tls.key")}
    with registry(tmp_path / "private", http={"tls": tls}) as private:
        send(layout, f"{private}/app:1")
        at = {"mirrors": {"secure.test": {"endpoint": [f"https://{private}"]}}}
        with pytest.raises(ImageUnavailable, match="certificate verify failed"):
            await puller(store, at).pull("secure.test/app:1")
        for said in ({"ca_file": str(tmp_path / "ca/ca.crt")}, {"insecure_skip_verify": True}):
            await puller(store, {**at, "configs": {private: {"tls": said}}}).pull("secure.test/app:1")
            assert store.remove("secure.test/app:1")


async def test_a_broken_download_goes_on_where_it_broke(place: str, tmp_path: Path, store: ImageStore) -> None:
    big = make_image(tmp_path / "big", [{"data": os.urandom(3 << 20).hex()}])
    send(big, f"{place}/team/big:1")
    ranges: list[str | None] = []

    async def relay(request: web.Request) -> web.StreamResponse:
        headers = {name: request.headers[name] for name in ("Accept", "Range") if name in request.headers}
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.get(f"http://{place}{request.path_qs}", headers=headers) as answer,
        ):
            content = await answer.read()
            kept = {key: value for key, value in answer.headers.items() if key in ("Content-Type", "Content-Range")}
            response = web.StreamResponse(status=answer.status, headers={**kept, "Content-Length": str(len(content))})
            await response.prepare(request)
            is_big = len(content) > 1 << 20
            if is_big:
                ranges.append(request.headers.get("Range"))
            if is_big and len(ranges) == 1:
                await response.write(content[: 1 << 20])
                assert request.transport is not None
                request.transport.close()
                return response
            await response.write(content)
            return response

    async with served([web.get("/{path:.*}", relay)]) as middle:
        image = await puller(store).pull(f"{middle}/team/big:1")
    assert (image.layers[0] / "data").stat().st_size == 6 << 20
    assert ranges[0] is None
    assert len(ranges) == 2
    assert str(ranges[1]).startswith("bytes=")
    assert int(str(ranges[1])[6:-1]) > 0


async def test_content_with_another_digest_is_refused_and_not_kept(place: str, layout: Path, store: ImageStore) -> None:
    send(layout, f"{place}/team/evil:1")

    async def relay(request: web.Request) -> web.Response:
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.get(
                f"http://{place}{request.path_qs}", headers={"Accept": request.headers.get("Accept", "*/*")}
            ) as answer,
        ):
            content = await answer.read()
            if answer.headers["Content-Type"] == "application/octet-stream" and not content.startswith(b"{"):
                content = content[:-1] + bytes([content[-1] ^ 1])
            return web.Response(body=content, headers={"Content-Type": answer.headers["Content-Type"]})

    async with served([web.get("/{path:.*}", relay)]) as middle:
        with pytest.raises(ImageUnavailable, match=r"the registry's content for sha256:.* is sha256:"):
            await puller(store).pull(f"{middle}/team/evil:1")
    assert [image.name for image in store.all() if not image.name.startswith("pyk.local/")] == []
    assert not list((store.image_dir / "layers").glob("sha256-*"))


async def test_one_image_pulled_by_several_at_once_is_fetched_once(place: str, layout: Path, store: ImageStore) -> None:
    send(layout, f"{place}/team/many:1")
    steps: list[Step] = []
    other = Puller(ImageStore(store.image_dir, RealClock()), RegistriesFile(None), RealClock(), watcher=steps.append)
    mine = puller(store, watcher=steps.append)
    images = await asyncio.gather(*(one.pull(f"{place}/team/many:1") for one in (mine, other, mine, other)))
    assert len({image.digest for image in images}) == 1
    assert sum(step.what == "unpacking" for step in steps) == len(images[0].layers)


@pytest.mark.parametrize("form", ["oci", "oci-archive", "docker-archive"])
async def test_what_skopeo_writes_is_loaded(form: str, layout: Path, tmp_path: Path, store: ImageStore) -> None:
    target = tmp_path / form
    name = "" if form == "oci" else ":team/app:1"
    run("skopeo", "--insecure-policy", "copy", f"oci:{layout}:latest", f"{form}:{target}{name}")
    (image,) = await asyncio.to_thread(load, store, target, "given/app:2" if form == "oci" else "")
    assert image.name == ("docker.io/given/app:2" if form == "oci" else "docker.io/team/app:1")
    assert (image.layers[-1] / "etc/motd").read_text() == "one"
    assert (image.layers[0] / "opt/tool/c").read_text() == "c"


async def test_a_pushed_image_is_what_others_and_we_ourselves_read(
    place: str, layout: Path, tmp_path: Path, store: ImageStore
) -> None:
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    (root / "bin/tool").write_text("x")
    (root / "bin/tool").chmod(0o4755)
    store.import_rootfs("mine:1", root)
    digest = await push(store, "mine:1", f"{place}/mine:1", RegistriesFile(None), RealClock())
    assert inspect(f"{place}/mine:1")["architecture"] == Platform.here().architecture
    run(
        "skopeo",
        "--insecure-policy",
        "copy",
        "--src-tls-verify=false",
        f"docker://{place}/mine:1",
        f"oci:{tmp_path}/out:1",
    )
    image = await puller(store).pull(f"{place}/mine:1")
    assert image.digest == digest
    assert (image.layers[0] / "bin/tool").stat().st_mode & 0o7777 == 0o4755
    # An image with whiteouts goes to another repository and comes back with them.
    send(layout, f"{place}/team/app:2")
    await puller(store).pull(f"{place}/team/app:2")
    await push(store, f"{place}/team/app:2", f"{place}/elsewhere/app:3", RegistriesFile(None), RealClock())
    back = ImageStore(tmp_path / "back", RealClock())
    copy = await puller(back).pull(f"{place}/elsewhere/app:3")
    assert stat.S_ISCHR((copy.layers[1] / "etc/gone").lstat().st_mode)
    assert not (copy.layers[1] / "opt/tool").is_dir()


@asynccontextmanager
async def served(routes: list[web.RouteDef]) -> AsyncIterator[str]:
    """An HTTP server of the test's own: HOST:PORT."""
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0]
        yield f"{host}:{port}"
    finally:
        await runner.cleanup()
