"""The OCI document of a container, and who it runs as."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.images.image import Image, ImageConfig
from agent.pods.environment import ConfigError
from agent.pods.spec import ContainerInputs, MountPoint, capabilities_of, command_of, container_spec
from agent.pods.users import User, resolve_user
from agent.runtime.contract import RuntimeFailure, Sandbox
from agent.runtime.spec import CAPABILITIES, DEFAULT_CAPABILITIES

SANDBOX = Sandbox("u", 42, True, 0.0, {})


def inputs(tmp_path: Path, config: ImageConfig | None = None, **more: Any) -> ContainerInputs:
    values: dict[str, Any] = {
        "image": Image("i:1", "sha256:1", config or ImageConfig(entrypoint=("/entry",), command=("cmd",)), (tmp_path,)),
        "environment": {"A": "1"},
        "user": User(0, 0, (0,), "/root"),
        "sandbox": SANDBOX,
        "mounts": [],
        "cgroup": "/pyk/x",
        "hostname": "h",
        "memory_capacity": 1 << 30,
    }
    return ContainerInputs(**{**values, **more})


@pytest.mark.parametrize(
    ("container", "argv"),
    [
        ({}, ["/entry", "cmd"]),
        ({"args": ["x"]}, ["/entry", "x"]),
        ({"command": ["c"]}, ["c"]),
        ({"command": ["c"], "args": ["$(A)", "$$(A)"]}, ["c", "1", "$(A)"]),
    ],
)
def test_command_and_args_against_the_image(tmp_path: Path, container: Any, argv: list[str]) -> None:
    assert command_of(container, inputs(tmp_path)) == argv


def test_nothing_to_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure, match="no command specified"):
        command_of({}, inputs(tmp_path, ImageConfig()))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, set(DEFAULT_CAPABILITIES)),
        ({"drop": ["ALL"]}, set()),
        ({"drop": ["ALL"], "add": ["NET_ADMIN"]}, {"CAP_NET_ADMIN"}),
        ({"add": ["ALL"]}, set(CAPABILITIES)),
        ({"add": ["all"], "drop": ["sys_admin"]}, set(CAPABILITIES) - {"CAP_SYS_ADMIN"}),
        ({"drop": ["CAP_CHOWN"]}, set(DEFAULT_CAPABILITIES) - {"CAP_CHOWN"}),
    ],
)
def test_capabilities_are_added_and_dropped(change: Any, expected: set[str]) -> None:
    assert set(capabilities_of(change)) == expected


def test_an_unknown_capability_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown capability 'FLY'"):
        capabilities_of({"add": ["FLY"]})


def spec_of(pod: Any, tmp_path: Path, container: Any = None, **spec: Any) -> Any:
    asked = {"name": "c", **(container or {})}
    return container_spec(pod(asked, **spec), asked, inputs(tmp_path))


def test_the_defaults_are_confined(pod: Any, tmp_path: Path) -> None:
    spec = spec_of(pod, tmp_path)
    assert spec["process"]["noNewPrivileges"]
    assert "seccomp" in spec["linux"]
    assert "/proc/kcore" in spec["linux"]["maskedPaths"]
    assert {"type": "network", "path": "/proc/42/ns/net"} in spec["linux"]["namespaces"]
    assert {"type": "pid"} in spec["linux"]["namespaces"]
    environment = dict(line.split("=", 1) for line in spec["process"]["env"])
    assert (environment["HOSTNAME"], environment["HOME"], environment["A"]) == ("h", "/root", "1")


def test_a_privileged_container_is_not_confined(pod: Any, tmp_path: Path) -> None:
    spec = spec_of(pod, tmp_path, {"securityContext": {"privileged": True}})
    assert not spec["process"]["noNewPrivileges"]
    assert "seccomp" not in spec["linux"]
    assert spec["linux"]["maskedPaths"] == spec["linux"]["readonlyPaths"] == []
    assert set(spec["process"]["capabilities"]["bounding"]) == set(CAPABILITIES)
    assert any(device["path"] == "/dev/null" for device in spec["linux"]["devices"])
    assert all("ro" not in m["options"] for m in spec["mounts"] if m["destination"].startswith("/sys"))


@pytest.mark.parametrize(
    ("context", "is_set"),
    [({}, True), ({"allowPrivilegeEscalation": True}, False), ({"capabilities": {"add": ["SYS_ADMIN"]}}, False)],
)
def test_privileges_are_not_gained_unless_asked(pod: Any, tmp_path: Path, context: Any, is_set: bool) -> None:
    assert spec_of(pod, tmp_path, {"securityContext": context})["process"]["noNewPrivileges"] == is_set


@pytest.mark.parametrize(("profile", "filtered"), [({"type": "RuntimeDefault"}, True), ({"type": "Unconfined"}, False)])
def test_seccomp_by_profile(pod: Any, tmp_path: Path, profile: Any, filtered: bool) -> None:
    spec = spec_of(pod, tmp_path, securityContext={"seccompProfile": profile})
    assert ("seccomp" in spec["linux"]) == filtered


def test_namespaces_of_the_host_and_of_the_pod(pod: Any, tmp_path: Path) -> None:
    def pid(**spec: Any) -> Any:
        return [n for n in spec_of(pod, tmp_path, **spec)["linux"]["namespaces"] if n["type"] == "pid"]

    assert pid(hostPID=True) == []
    assert pid(shareProcessNamespace=True) == [{"type": "pid", "path": "/proc/42/ns/pid"}]


def test_a_volume_replaces_a_default_mount_and_deeper_ones_come_later(pod: Any, tmp_path: Path) -> None:
    points = [
        MountPoint("/h/deep", "/data/a/b", read_only=True, recursive_read_only=True),
        MountPoint("/h/shm", "/dev/shm"),
        MountPoint("/h/data", "/data", propagation="HostToContainer"),
    ]
    container = {"name": "c"}
    mounts = container_spec(pod(container), container, inputs(tmp_path, mounts=points))["mounts"]
    assert [m["source"] for m in mounts if m["destination"] == "/dev/shm"] == ["/h/shm"]
    ours = [(m["destination"], m["options"]) for m in mounts if m["source"].startswith("/h/")]
    assert ours == [
        ("/data", ["rbind", "rslave"]),
        ("/dev/shm", ["rbind", "rprivate"]),
        ("/data/a/b", ["rbind", "rprivate", "rro"]),
    ]


# Users


@pytest.fixture
def image(tmp_path: Path) -> Any:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\napp:x:100:101:App:/srv/app:/bin/sh\n")
    (tmp_path / "etc/group").write_text("root:x:0:\nextra:x:7:app,other\napp:x:101:\n")
    return lambda user: Image("i:1", "sha256:1", ImageConfig(user=user), (tmp_path,))


@pytest.mark.parametrize(
    ("user", "context", "expected"),
    [
        ("", {}, User(0, 0, (0,), "/root")),
        ("app", {}, User(100, 101, (101, 7), "/srv/app")),
        ("100", {}, User(100, 101, (101, 7), "/srv/app")),
        ("app:extra", {}, User(100, 7, (7,), "/srv/app")),
        ("5000:6", {}, User(5000, 6, (6,), "/")),
        ("app", {"runAsUser": 9}, User(9, 0, (0,), "/")),
        ("app", {"runAsUser": 100, "runAsGroup": 3}, User(100, 3, (3, 7), "/srv/app")),
        ("app", {"fsGroup": 50, "supplementalGroups": [60]}, User(100, 101, (101, 60, 50, 7), "/srv/app")),
        ("app", {"supplementalGroupsPolicy": "Strict"}, User(100, 101, (101,), "/srv/app")),
    ],
)
def test_who_a_container_runs_as(pod: Any, image: Any, user: str, context: Any, expected: User) -> None:
    assert resolve_user(pod("c", securityContext=context), {"name": "c"}, image(user)) == expected


@pytest.mark.parametrize(
    ("user", "context", "words"),
    [
        ("", {"runAsNonRoot": True}, "image will run as root"),
        ("app", {"runAsNonRoot": True}, "non-numeric user"),
        ("100", {"runAsNonRoot": True, "runAsUser": 0}, "breaks non-root policy"),
        ("ghost", {}, "unable to find user ghost"),
        ("app:ghosts", {}, "unable to find group ghosts"),
    ],
)
def test_who_a_container_must_not_run_as(pod: Any, image: Any, user: str, context: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        resolve_user(pod("c", securityContext=context), {"name": "c"}, image(user))


def test_a_passwd_file_that_leads_out_of_the_image_is_not_read(pod: Any, tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    (layer / "etc").mkdir(parents=True)
    (layer / "etc/passwd").symlink_to("/etc/passwd")
    evil = Image("i:1", "sha256:1", ImageConfig(user="daemon"), (layer,))
    with pytest.raises(ConfigError, match="unable to find user daemon"):
        resolve_user(pod("c"), {"name": "c"}, evil)
