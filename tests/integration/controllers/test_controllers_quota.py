"""The resource quota loop with a real API server: a quota gets a status, and what is deleted comes off again."""

from __future__ import annotations

from pyk.api.kinds import CONFIG_MAP, RESOURCE_QUOTA
from tests.integration.controllers.played import Cluster, eventually


async def test_a_quota_counts_what_is_there_and_forgets_what_is_deleted(cluster: Cluster) -> None:
    client = cluster.client
    metadata = {"name": "one", "namespace": "default"}
    await client.create(CONFIG_MAP, {"metadata": metadata})
    quota = {"metadata": {"name": "q", "namespace": "default"}, "spec": {"hard": {"count/configmaps": "9"}}}
    await client.create(RESOURCE_QUOTA, quota)

    async def used() -> int:
        status = (await client.get(RESOURCE_QUOTA, "q", "default")).get("status") or {}
        return int((status.get("used") or {}).get("count/configmaps", "-1"))

    async def is_counted() -> bool:
        return await used() >= 1

    await eventually("counted", is_counted)
    before = await used()
    await client.delete(CONFIG_MAP, "one", "default")

    async def is_less() -> bool:
        return await used() == before - 1

    await eventually("forgotten", is_less)
