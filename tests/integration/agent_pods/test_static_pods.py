"""Static pods with real containers: run without an API server, shown in it, and untouched by what happens there."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from pyk.api.kinds import NODE, POD
from pyk.api.objects import annotations_of, uid_of

pytestmark = pytest.mark.root


def write(node: Any, pod: Any, name: str = "web.yaml") -> Path:
    """Put a manifest in the folder, whole at once."""
    folder: Path = node.settings.static_pod_dir
    folder.mkdir(parents=True, exist_ok=True)
    document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": {**pod["spec"]}}
    del document["spec"]["nodeName"]
    (folder / f".{name}").write_text(yaml.safe_dump(document))
    os.rename(folder / f".{name}", folder / name)
    return folder / name


def container_id(pod: Any) -> str:
    return str(pod["status"]["containerStatuses"][0].get("containerID"))


async def test_a_static_pod_is_shown_and_survives_the_deletion_of_what_shows_it(node: Any, shell_pod: Any) -> None:
    made = await node.client.create(NODE, {"metadata": {"name": "n1"}})
    node.node = made
    file = write(node, shell_pod("x", "exec sleep 1000"))
    async with node.agent() as pods:
        shown = await node.until("web-n1", ready)
        annotations = annotations_of(shown)
        assert annotations["kubernetes.io/config.mirror"] == annotations["kubernetes.io/config.hash"]
        assert shown["metadata"]["ownerReferences"][0]["uid"] == uid_of(made)
        assert pods.container("default", "web-n1", "main") is not None
        await node.client.delete(POD, "web-n1", "default")
        again = await node.until("web-n1", lambda pod: uid_of(pod) != uid_of(shown) and ready(pod))
        assert container_id(again) == container_id(shown)
        write(node, shell_pod("x", "exec sleep 2000"))
        other = await node.until("web-n1", lambda pod: ready(pod) and container_id(pod) != container_id(shown))
        assert other["spec"]["containers"][0]["command"][-1] == "exec sleep 2000"
    async with node.agent():
        same = await node.until("web-n1", ready)
        assert container_id(same) == container_id(other)
        file.unlink()
        await node.until_gone("web-n1")
        async with asyncio.timeout(30):
            while await node.runtime.list_sandboxes():
                await asyncio.sleep(0.02)


async def test_a_static_pod_runs_while_the_api_server_is_away(node: Any, shell_pod: Any) -> None:
    await node.stop_server()
    write(node, shell_pod("x", "exec sleep 1000"))
    async with node.agent():
        async with asyncio.timeout(30):
            while not any(state.pid for state in await node.runtime.list_containers()):
                await asyncio.sleep(0.02)


def ready(pod: Any) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
