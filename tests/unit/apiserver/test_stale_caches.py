"""Writes when the watch cache is behind: what is decided against a client is decided from a fresh read."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from controlplane.apiserver.admission_chain import Admission
from controlplane.apiserver.authentication import UserInfo
from controlplane.apiserver.authorization import Authorizer
from controlplane.apiserver.encoding import decode, encode
from controlplane.apiserver.nodepods import NodePods
from controlplane.apiserver.patch import JSON_PATCH, MERGE_PATCH, parse_patch
from controlplane.apiserver.rbac import RoleBook
from controlplane.apiserver.registry import Registry
from controlplane.apiserver.request import DeleteOptions
from controlplane.apiserver.watchcache import KindCache, WatchCache
from controlplane.apiserver.writes import Write
from controlplane.store.sqlite import SqliteStore
from pyk.api.kinds import CONFIG_MAP, POD
from pyk.api.status import ApiError
from pyk.reconcile.clock import RealClock

KEY = CONFIG_MAP.storage_key("a", "x")


def stored(value, uid="u1"):
    metadata = {"name": "x", "namespace": "a", "uid": uid}
    return encode({"metadata": metadata, "kind": "ConfigMap", "apiVersion": "v1", "data": {"k": value}})


def write():
    return Write(UserInfo("admin", "", ("system:masters",)), CONFIG_MAP, "a", "x")


def merge_patch(value):
    return parse_patch(orjson.dumps({"data": {"k": value}}), MERGE_PATCH, CONFIG_MAP.model)


@pytest.fixture
async def store(tmp_path):
    store = SqliteStore(tmp_path / "store.db", clock=RealClock())
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def behind(store):
    """A registry whose cache stopped when the object was at its first revision, and that revision."""
    first = await store.create(KEY, stored("old"))
    cache = WatchCache(store, RealClock(), [CONFIG_MAP])
    following = asyncio.create_task(cache.run())
    await asyncio.wait_for(cache.ready.wait(), 10)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    registry = Registry(store, cache, RealClock(), Authorizer(NodePods(KindCache(POD)), RoleBook()), Admission(()))
    return registry, first


async def test_a_change_back_to_the_cached_state_is_written(store, behind):
    registry, first = behind
    second = await store.update(KEY, stored("new"), first)
    found = decode(await registry.patch(write(), merge_patch("old")))
    assert found["data"] == {"k": "old"}
    assert int(found["metadata"]["resourceVersion"]) > second


async def test_a_patch_that_fits_the_present_state_only_succeeds(store, behind):
    registry, first = behind
    await store.update(KEY, stored("new"), first)
    operations = [
        {"op": "test", "path": "/data/k", "value": "new"},
        {"op": "replace", "path": "/data/k", "value": "newer"},
    ]
    patch = parse_patch(orjson.dumps(operations), JSON_PATCH, CONFIG_MAP.model)
    assert decode(await registry.patch(write(), patch))["data"] == {"k": "newer"}


async def test_an_update_of_the_newest_version_is_no_conflict(store, behind):
    registry, first = behind
    second = await store.update(KEY, stored("new"), first)
    document = {"metadata": {"name": "x", "resourceVersion": str(second)}, "data": {"k": "newer"}}
    assert decode(await registry.update(write(), document))["data"] == {"k": "newer"}
    with pytest.raises(ApiError) as caught:
        await registry.update(write(), {**document, "data": {"k": "newest"}})
    assert caught.value.code == 409


async def test_an_object_that_is_gone_is_not_found(store, behind):
    registry, first = behind
    await store.delete(KEY, first)
    for act in (registry.patch(write(), merge_patch("new")), registry.delete(write(), DeleteOptions())):
        with pytest.raises(ApiError) as caught:
            await act
        assert caught.value.code == 404


async def test_an_object_that_the_cache_does_not_know_yet_is_found(store, behind):
    registry, _ = behind
    await store.create(CONFIG_MAP.storage_key("a", "y"), stored("old").replace(b'"x"', b'"y"'))
    late = write()
    late.name = "y"
    assert decode(await registry.patch(late, merge_patch("new")))["data"] == {"k": "new"}
    assert (await registry.delete(late, DeleteOptions()))[1]


async def test_preconditions_are_checked_on_the_present_object(store, behind):
    registry, first = behind
    await store.delete(KEY, first)
    await store.create(KEY, stored("again", uid="u2"))
    with pytest.raises(ApiError) as caught:
        await registry.delete(write(), DeleteOptions(uid="u1"))
    assert caught.value.code == 409
    assert (await registry.delete(write(), DeleteOptions(uid="u2")))[1]
