from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.runtime import syscalls
from agent.runtime.contract import ContainerConfig, RootFilesystem, RuntimeFailure
from agent.runtime.plan import container_plan
from agent.runtime.seccomp_default import runtime_default
from agent.runtime.spec import DEFAULT_CAPABILITIES, default_spec


def plan(change: Callable[[dict[str, Any]], None] = lambda spec: None, **options: Any) -> dict[str, Any]:
    spec = default_spec()
    spec["process"]["args"] = ["/bin/true"]
    spec["linux"]["cgroupsPath"] = "/pyk/pod/c"
    change(spec)
    rootfs = RootFilesystem([Path("/layers/top"), Path("/layers/base")], Path("/w/c"), {"/usr": "/host/usr"})
    values: dict[str, Any] = {"id": "c", "sandbox_id": "s", "spec": spec, "rootfs": rootfs, "log_path": Path("/log")}
    return container_plan(ContainerConfig(**values | options))


def mounts(*entries: dict[str, Any]) -> list[dict[str, Any]]:
    def change(spec: dict[str, Any]) -> None:
        spec["mounts"] = list(entries)

    found: list[dict[str, Any]] = plan(change)["mounts"][1:]
    return found


def bind(*options: str, destination: str = "/d", kind: str = "bind") -> dict[str, Any]:
    entry = {"destination": destination, "type": kind, "source": "/s", "options": list(options)}
    return mounts(entry)[0]


def test_the_defaults_are_those_of_kubernetes() -> None:
    made = plan()
    assert made["namespaces"] == {
        "new": syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNS | syscalls.CLONE_NEWCGROUP,
        "join": [],
    }
    assert [mount["to"] for mount in made["mounts"]] == [
        "/usr",
        "/proc",
        "/dev",
        "/dev/pts",
        "/dev/shm",
        "/dev/mqueue",
        "/sys",
        "/sys/fs/cgroup",
    ]
    assert made["process"]["capabilities"] == {
        "bounding": 0xA80425FB,
        "effective": 0xA80425FB,
        "permitted": 0xA80425FB,
        "inheritable": 0,
        "ambient": 0,
    }
    assert made["process"]["no_new_privileges"]
    assert made["lower"] == ["/layers/top", "/layers/base"]
    assert {device[0] for device in made["devices"]} == {
        f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty")
    }


def test_what_an_image_shows_of_the_host_is_read_only_throughout() -> None:
    first = plan()["mounts"][0]
    assert (first["op"], first["source"], first["to"]) == ("bind", "/host/usr", "/usr")
    assert first["recursive"]
    assert first["deep"]
    assert first["set"] & syscalls.MOUNT_ATTR_RDONLY


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["rbind"], {"recursive": True, "set": 0, "clear": 0, "deep": False, "propagation": syscalls.MS_PRIVATE}),
        (["bind", "ro"], {"recursive": False, "set": syscalls.MOUNT_ATTR_RDONLY, "deep": False}),
        (["rbind", "rro"], {"set": syscalls.MOUNT_ATTR_RDONLY, "deep": True}),
        (["ro", "rw"], {"set": 0, "clear": syscalls.MOUNT_ATTR_RDONLY}),
        (["rw", "ro"], {"set": syscalls.MOUNT_ATTR_RDONLY, "clear": 0}),
        (["nosuid", "nodev", "noexec"], {"set": 0b1110}),
        (["noatime"], {"set": syscalls.MOUNT_ATTR_NOATIME, "clear": syscalls.MOUNT_ATTR__ATIME}),
        (["rslave"], {"propagation": syscalls.MS_SLAVE}),
        (["rshared"], {"propagation": syscalls.MS_SHARED}),
        (["private"], {"propagation": syscalls.MS_PRIVATE}),
    ],
)
def test_bind_mount_options(options: list[str], expected: dict[str, Any]) -> None:
    made = bind(*options)
    assert {key: made[key] for key in expected} == expected


def test_an_option_makes_a_bind_mount_as_the_type_does() -> None:
    assert bind("rbind", kind="none")["op"] == "bind"


def test_file_system_options_become_flags_and_data() -> None:
    entry = {
        "destination": "/t/../tmp/",
        "type": "tmpfs",
        "source": "tmpfs",
        "options": ["nosuid", "ro", "size=1m", "mode=1777"],
    }
    assert mounts(entry) == [
        {
            "op": "filesystem",
            "type": "tmpfs",
            "source": "tmpfs",
            "to": "/tmp",
            "flags": syscalls.MS_NOSUID | syscalls.MS_RDONLY,
            "data": "size=1m,mode=1777",
        }
    ]


def test_shared_memory_is_the_sandbox_s_unless_a_volume_takes_its_place() -> None:
    assert [mount["op"] for mount in plan()["mounts"] if mount["to"] == "/dev/shm"] == ["shm"]
    entry = {"destination": "/dev/shm", "type": "tmpfs", "source": "tmpfs", "options": ["size=2g"]}
    assert mounts(entry)[0]["op"] == "filesystem"


def test_a_dev_of_the_host_gets_no_devices_of_ours() -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["mounts"] = [{"destination": "/dev", "type": "bind", "source": "/dev", "options": ["rbind"]}]
        spec["linux"]["devices"] = [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o600}]

    made = plan(change)
    assert made["links"] == []
    assert made["devices"] == [["/dev/fuse", "c", 10, 229, 0o600, 0, 0]]


def test_namespaces_are_made_or_joined() -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["namespaces"] = [
            {"type": "mount"},
            {"type": "network", "path": "/proc/7/ns/net"},
            {"type": "uts"},
        ]

    assert plan(change)["namespaces"] == {
        "new": syscalls.CLONE_NEWNS | syscalls.CLONE_NEWUTS,
        "join": [[syscalls.CLONE_NEWNET, "/proc/7/ns/net"]],
    }


@pytest.mark.parametrize("rules", [None, []])
def test_without_device_rules_the_default_ones_hold(rules: list[Any] | None) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["resources"] = {"memory": {"limit": 1}, "devices": rules}

    made = plan(change)["resources"]
    assert made["memory"] == {"limit": 1}
    assert made["devices"][0] == {"allow": False, "access": "rwm"}


def test_the_process_is_taken_over() -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["process"] |= {
            "args": ["a", "b"],
            "env": ["X=1"],
            "cwd": "/x/../y",
            "user": {"uid": 5, "gid": 6, "additionalGids": [7], "umask": 0o77},
            "rlimits": [{"type": "RLIMIT_CORE", "soft": 1, "hard": 2}],
            "oomScoreAdj": -5,
            "terminal": True,
            "consoleSize": {"height": 3, "width": 4},
        }
        spec["root"]["readonly"] = True

    made = plan(change, stdin=True)
    process = made["process"]
    assert (process["args"], process["env"], process["cwd"], process["terminal"]) == (["a", "b"], ["X=1"], "/y", True)
    assert (process["uid"], process["gid"], process["groups"], process["umask"]) == (5, 6, [7], 0o77)
    assert (process["rlimits"], process["oom_score_adj"]) == ([["RLIMIT_CORE", 1, 2]], -5)
    assert (process["rows"], process["columns"], made["readonly"], made["stdin"]) == (3, 4, True, True)


def test_the_filter_is_compiled() -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["seccomp"] = runtime_default(DEFAULT_CAPABILITIES)

    program = base64.b64decode(plan(change)["process"]["seccomp"])
    assert len(program) > 800
    assert len(program) % 8 == 0
    assert plan()["process"]["seccomp"] == ""


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("process.args", [], "process.args is empty"),
        ("process.cwd", "x", "process.cwd 'x' is not absolute"),
        ("process.capabilities", {"bounding": ["CAP_X"]}, "unknown capability CAP_X"),
        ("process.selinuxLabel", "x", "process.selinuxLabel is not supported"),
        ("hooks", {"poststart": [{}]}, "hooks is not supported"),
        ("linux.cgroupsPath", "x", "is not an absolute, clean path"),
        ("linux.cgroupsPath", "/a/../../b", "is not an absolute, clean path"),
        ("linux.cgroupsPath", "/", "is not an absolute, clean path"),
        ("linux.uidMappings", [{}], "must both map 65536 ids from 0"),
        ("linux.namespaces", [{"type": "mount"}, {"type": "user"}], "must both map 65536 ids"),
        ("linux.namespaces", [{"type": "mount"}, {"type": "time"}], "type 'time' is not supported"),
        ("linux.namespaces", [{"type": "pid"}], "needs a mount namespace"),
        ("linux.namespaces", [{"type": "mount", "path": "/x"}], "joining a mount namespace is not supported"),
        ("linux.seccomp", {"defaultAction": "X"}, "seccomp profile: seccomp action X is not supported"),
        ("linux.devices", [{"path": "/dev/x", "type": "z"}], "unknown type 'z'"),
        ("mounts", [{"destination": "x", "type": "tmpfs"}], "'x' is not absolute"),
        ("mounts", [{"destination": "/x", "type": "bind", "options": ["size=1"]}], "'size=1' of /x is not supported"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(path: str, value: Any, message: str) -> None:
    def change(spec: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for parent in parents:
            spec = spec[parent]
        spec[last] = value

    with pytest.raises(RuntimeFailure, match=message):
        plan(change)


@pytest.mark.parametrize("identifier", ["", "../x", "a/b", ".hidden", "x" * 200])
def test_an_id_is_a_file_name(identifier: str) -> None:
    with pytest.raises(RuntimeFailure, match="id "):
        plan(id=identifier)
