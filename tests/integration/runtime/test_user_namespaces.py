"""A pod whose root is nobody on the host: what it sees, what it may do, and what it leaves on disk."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.images.layers import is_in_use, mounted_overlays
from agent.runtime import userns
from agent.runtime.contract import RuntimeFailure, Sandbox
from agent.runtime.spec import CAPABILITIES, capability_sets
from tests.integration.runtime.runtime_node import Node

pytestmark = pytest.mark.root


def in_namespace(sandbox: Sandbox, **process: Any) -> Any:
    """The change of a document that puts its container into the sandbox's user namespace."""

    def change(spec: dict[str, Any]) -> None:
        linux = spec["linux"]
        linux["namespaces"].append({"type": "user", "path": f"/proc/{sandbox.pid}/ns/user"})
        linux["uidMappings"] = linux["gidMappings"] = [
            {"containerID": 0, "hostID": sandbox.first_host_id, "size": 65536}
        ]
        spec["process"].update(process)

    return change


async def run(node: Node, script: str, *, mounts: list[dict[str, Any]] | None = None, **process: Any) -> str:
    sandbox = await node.sandbox(own_users=True)

    def change(spec: dict[str, Any]) -> None:
        in_namespace(sandbox, **process)(spec)
        spec["mounts"] += mounts or []

    state, output = await node.run(script, sandbox=sandbox, change=change)
    assert state.exit_code == 0, output + node.output(state.id, "stderr")
    return output


async def test_root_inside_is_a_number_of_its_own_outside(node: Node) -> None:
    out = await run(
        node, "id -u; cat /proc/self/uid_map /proc/self/gid_map; stat -c %u:%g / /etc/passwd /dev /dev/null /proc/self/"
    )
    sandbox = await node.sandbox(own_users=True)
    first = str(sandbox.first_host_id)
    assert out.split()[:7] == ["0", "0", first, "65536", "0", first, "65536"]
    assert out.split()[7:] == ["0:0"] * 5
    other = await node.sandbox("other", own_users=True)
    assert abs(other.first_host_id - sandbox.first_host_id) >= 65536
    state = await node.start("c", ["/bin/sleep", "100"], sandbox, change=in_namespace(sandbox))
    assert Path(f"/proc/{state.pid}").stat().st_uid == sandbox.first_host_id


async def test_the_layers_of_one_that_runs_are_known_to_be_in_use(node: Node) -> None:
    sandbox = await node.sandbox(own_users=True)
    assert not is_in_use(node.root, mounted_overlays())
    await node.start("c", ["/bin/sleep", "100"], sandbox, change=in_namespace(sandbox))
    assert is_in_use(node.root, mounted_overlays())
    assert userns.named_after(["/a", "/b"]) == b"/a:/b"
    assert is_in_use(node.root, userns.named_after(["/layer" * 10] * 128).decode())


async def test_files_are_written_as_their_owner_and_seen_so_in_volumes(node: Node, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "there").write_text("x")
    bind = {"destination": "/data", "type": "bind", "source": str(volume), "options": ["rbind", "rprivate"]}
    script = "stat -c %u /data /data/there; echo y >/data/new; chown 7:8 /data/new; echo z >/made; rm /etc/group"
    out = await run(node, script, mounts=[bind])
    assert out.split() == ["0", "0"]
    new = (volume / "new").stat()
    assert (new.st_uid, new.st_gid) == (7, 8)
    sandbox = await node.sandbox(own_users=True)
    (upper,) = (node.directory / "writable").glob("*/upper")
    assert (upper / "made").stat().st_uid == sandbox.first_host_id


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Path]:
    """A directory of a file system that has no id-mapped mounts, as a tmpfs has none before Linux 6.3."""
    lower, upper, work, shown = (tmp_path / name for name in ("lower", "upper", "work", "shown"))
    for each in (lower, upper, work, shown):
        each.mkdir()
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "none", "-o", options, str(shown)], check=True)
    yield shown
    subprocess.run(["umount", "-l", str(shown)], check=True)


async def test_what_cannot_be_mapped_is_shown_when_it_is_the_pods_own(node: Node, overlay: Path) -> None:
    bind = {"destination": "/data", "type": "bind", "source": str(overlay), "options": ["rbind", "rprivate"]}
    sandbox = await node.sandbox(own_users=True)
    with pytest.raises(RuntimeFailure, match="no id-mapped mounts"):
        await run(node, "true", mounts=[bind])
    os.chown(overlay, sandbox.first_host_id, sandbox.first_host_id)
    out = await run(node, "stat -c %u:%g /data; echo y >/data/new", mounts=[bind])
    assert out.split() == ["0:0"]
    assert (overlay / "new").stat().st_uid == sandbox.first_host_id


async def test_another_user_of_the_pod_is_one_too(node: Node) -> None:
    user = {"uid": 1000, "gid": 1000, "additionalGids": [44]}
    out = await run(node, "id -u; id -G; touch /dev/shm/f; stat -c %u /dev/shm/f; echo out >/dev/stdout", user=user)
    assert out.split() == ["1000", "1000", "44", "1000", "out"]


async def test_capabilities_hold_inside_only(node: Node) -> None:
    everything = capability_sets(list(CAPABILITIES))
    script = """
        mount -t tmpfs none /mnt 2>/dev/null || mkdir -p /m && mount -t tmpfs none /m
        umount /proc/sys 2>/dev/null && echo undid a mask
        echo 1 >/proc/sys/kernel/sysrq 2>/dev/null && echo changed the host
        date -s @0 >/dev/null 2>&1 && echo changed the time
        mknod /m/disk b 8 0 2>/dev/null && echo made a device
        ip link add d0 type bridge && ip link del d0 && echo network is its own
        true
    """
    assert await run(node, script, capabilities=everything) == "network is its own\n"


async def test_exec_joins_it_as_the_container_s_user(node: Node) -> None:
    sandbox = await node.sandbox(own_users=True)
    await node.start("c", ["/bin/sleep", "100"], sandbox, change=in_namespace(sandbox))
    code, out, err = await node.execute("c", ["/bin/sh", "-c", "id -u; cat /proc/self/uid_map; echo e >/dev/stderr"])
    assert (code, out.split(), err) == (0, ["0", "0", str(sandbox.first_host_id), "65536"], "e\n")
    session_code, shown, _ = await node.execute("c", ["/bin/sh", "-c", "tty; stty size"], terminal=True, stdin=True)
    assert session_code == 0
    assert shown.startswith("/dev/pts/0")


async def test_pods_share_memory_and_processes_inside(node: Node) -> None:
    sandbox = await node.sandbox(own_users=True, share_pids=True)

    def change(spec: dict[str, Any]) -> None:
        in_namespace(sandbox)(spec)
        namespaces = spec["linux"]["namespaces"]
        namespaces[:] = [entry for entry in namespaces if entry["type"] != "pid"]
        namespaces.append({"type": "pid", "path": f"/proc/{sandbox.pid}/ns/pid"})

    await node.start("one", ["/bin/sh", "-c", "echo seen >/dev/shm/note; exec sleep 100"], sandbox, change=change)
    await node.until("one", lambda state: state.pid > 0)
    state, output = await node.run(
        "until grep -q seen /dev/shm/note 2>/dev/null; do :; done; stat -c %u /dev/shm /dev/shm/note; "
        "cat /proc/*/comm | grep -c sleep; kill $(grep -l sleep /proc/[0-9]*/comm | cut -d/ -f3) && echo killed",
        sandbox=sandbox,
        change=change,
    )
    assert state.exit_code == 0, output
    assert output.split() == ["0", "0", "1", "killed"]


async def test_a_mapping_that_is_not_the_sandbox_s_is_refused(node: Node) -> None:
    sandbox = await node.sandbox(own_users=True)

    def change(spec: dict[str, Any]) -> None:
        in_namespace(sandbox)(spec)
        spec["linux"]["uidMappings"] = [{"containerID": 0, "hostID": 0, "size": 65536}]

    with pytest.raises(Exception, match="must both map 65536 ids"):
        await node.runtime.create_container(node.config("c", ["/bin/true"], sandbox, change=change))
