"""What real containers see of their pod: environment, files, volumes, users, limits, namespaces."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
from typing import Any

import pytest

from pyk.api.kinds import CONFIG_MAP, POD, SECRET

pytestmark = pytest.mark.root


def config_map(name: str, **data: str) -> Any:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, "data": data}


def secret(name: str, **data: str) -> Any:
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": encoded}


async def output(node: Any, pod: Any) -> str:
    """What the pod's container wrote until it ended."""
    done = await node.finished(pod)
    text: str = node.log(done)
    assert done["status"]["phase"] == "Succeeded", text
    return text


async def test_the_environment_from_everywhere(node: Any, shell_pod: Any) -> None:
    await node.create(config_map("settings", color="blue", size="7"))
    await node.create(secret("hidden", token="s3cr3t"))
    container = {
        "envFrom": [{"configMapRef": {"name": "settings"}, "prefix": "CFG_"}, {"secretRef": {"name": "hidden"}}],
        "env": [
            {"name": "GREETING", "value": "hi $(CFG_color) $$(CFG_color) $(UNKNOWN)"},
            {"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "size"}}},
            {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hidden", "key": "token"}}},
            {"name": "NONE", "valueFrom": {"secretKeyRef": {"name": "nowhere", "key": "x", "optional": True}}},
            {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
        ],
        "resources": {"limits": {"memory": "64Mi"}},
        "command": ["/bin/sh"],
        "args": ["-c", "echo $(CFG_size); env | sort"],
    }
    async with node.agent():
        lines = (await output(node, shell_pod("env", container=container))).splitlines()
    assert lines[0] == "7"
    found = dict(line.split("=", 1) for line in lines[1:])
    assert found["GREETING"] == "hi blue $(CFG_color) $(UNKNOWN)"
    assert (found["CFG_color"], found["KEY"], found["TOKEN"], found["token"]) == ("blue", "7", "s3cr3t", "s3cr3t")
    assert (found["POD"], found["IP"], found["LIMIT"]) == ("env", "198.51.100.1", "64")
    assert found["HOSTNAME"] == "env"
    assert "NONE" not in found
    assert "/bin" in found["PATH"]


async def test_a_missing_config_map_is_waited_for(node: Any, shell_pod: Any) -> None:
    container = {"envFrom": [{"configMapRef": {"name": "later"}}]}
    async with node.agent():
        await node.create(shell_pod("early", "echo got $word", container=container))

        def waits(pod: Any) -> bool:
            statuses = pod["status"].get("containerStatuses") or [{"state": {}}]
            waiting = statuses[0]["state"].get("waiting") or {}
            return waiting.get("reason") == "CreateContainerConfigError" and "later" in waiting["message"]

        await node.until("early", waits)
        await node.create(config_map("later", word="it"))
        pod = await node.until("early", lambda p: p["status"]["phase"] == "Succeeded")
        assert node.log(pod) == "got it\n"


async def test_a_missing_volume_source_is_told_and_waited_for(node: Any, shell_pod: Any) -> None:
    spec = {
        "volumes": [{"name": "s", "secret": {"secretName": "keys"}}],
        "container": {"volumeMounts": [{"name": "s", "mountPath": "/keys"}]},
    }
    async with node.agent():
        await node.create(shell_pod("mounts", "cat /keys/a", **spec))
        text = await node.until_event("mounts", "FailedMount")
        assert text == 'FailedMount: MountVolume.SetUp failed for volume "s" : secret "keys" not found'
        await node.create(secret("keys", a="b"))
        pod = await node.until("mounts", lambda p: p["status"]["phase"] == "Succeeded")
        assert node.log(pod) == "b"


async def test_a_pod_that_claims_devices_does_not_start_without_them(node: Any, shell_pod: Any) -> None:
    async with node.agent():
        await node.create(shell_pod("claims", "true", resourceClaims=[{"name": "gpu", "resourceClaimName": "gpu"}]))
        text = await node.until_event("claims", "FailedPrepareDynamicResources")
        assert text.endswith("Failed to prepare dynamic resources: this node has no driver of devices")
        pod = await node.until("claims", lambda p: p["status"].get("containerStatuses"))
        assert pod["status"]["containerStatuses"][0]["state"] == {"waiting": {"reason": "ContainerCreating"}}
        await node.client.delete(POD, "claims", "default")
        await node.until_gone("claims")


async def test_every_kind_of_volume(node: Any, shell_pod: Any, tmp_path: Any) -> None:
    await node.create(config_map("cm", one="1", two="2"))
    await node.create(secret("sec", pw="x"))
    (tmp_path / "host").mkdir()
    (tmp_path / "host/file").write_text("from the host")
    volumes = [
        {"name": "cm", "configMap": {"name": "cm", "items": [{"key": "one", "path": "deep/uno", "mode": 0o400}]}},
        {"name": "sec", "secret": {"secretName": "sec", "defaultMode": 0o440}},
        {"name": "down", "downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
        {
            "name": "all",
            "projected": {
                "sources": [
                    {"configMap": {"name": "cm", "items": [{"key": "two", "path": "two"}]}},
                    {"secret": {"name": "sec"}},
                    {"downwardAPI": {"items": [{"path": "ns", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
                    {"configMap": {"name": "nothing", "optional": True}},
                ]
            },
        },
        {"name": "host", "hostPath": {"path": str(tmp_path / "host"), "type": "Directory"}},
        {"name": "disk", "emptyDir": {}},
        {"name": "ram", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
    ]
    mounts = [{"name": v["name"], "mountPath": f"/v/{v['name']}"} for v in volumes]
    mounts[4]["readOnly"] = True
    script = """
        cat /v/cm/deep/uno; stat -c %a /v/cm/..data/deep/uno
        cat /v/sec/pw; stat -Lc %a /v/sec/pw; touch /v/sec/x 2>&1
        cat /v/down/name; echo
        ls /v/all; cat /v/all/ns; echo
        cat /v/host/file; touch /v/host/no 2>&1
        stat -c %a /v/disk /v/ram; grep -c ' /v/ram tmpfs' /proc/mounts
        dd if=/dev/zero of=/v/ram/big bs=1M count=3 2>/dev/null || echo full
    """
    async with node.agent():
        pod = shell_pod("volumes", script, volumes=volumes, container={"volumeMounts": mounts})
        lines = [line.strip() for line in (await output(node, pod)).splitlines()]
    assert lines[0] == "1400"
    assert lines[1] == "x440"
    assert "Read-only" in lines[2]
    assert lines[3] == "volumes"
    assert lines[4:7] == ["ns", "pw", "two"]
    assert lines[7] == "default"
    assert lines[8].startswith("from the hosttouch:")
    assert lines[9:] == ["777", "777", "1", "full"]


async def test_volume_content_follows_its_object(node: Any, shell_pod: Any) -> None:
    await node.create(config_map("live", word="old"))
    spec = {
        "volumes": [
            {"name": "cm", "configMap": {"name": "live"}},
            {"name": "me", "downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        ],
        "container": {"volumeMounts": [{"name": "cm", "mountPath": "/cm"}, {"name": "me", "mountPath": "/me"}]},
    }
    script = "until grep -q new /cm/word && grep -q team /me/l; do sleep 0.05; done; cat /cm/word /me/l"
    async with node.agent():
        await node.running(shell_pod("follower", script, **spec))
        await node.client.patch(CONFIG_MAP, "live", "default", {"data": {"word": "new"}})
        await node.client.patch(POD, "follower", "default", {"metadata": {"labels": {"team": "a"}}})
        pod = await node.until("follower", lambda p: p["status"]["phase"] == "Succeeded")
        assert node.log(pod) == 'newteam="a"'


async def test_a_subpath_cannot_be_led_out_of_its_volume(node: Any, shell_pod: Any, tmp_path: Any) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/away").symlink_to("/etc")
    (tmp_path / "data/up").symlink_to("../..")
    (tmp_path / "data/in").mkdir()
    (tmp_path / "data/in/file").write_text("inside")
    (tmp_path / "data/link").symlink_to("in")

    def pod(name: str, **mount: Any) -> Any:
        return shell_pod(
            name,
            "cat /m/file; touch /m/made",
            volumes=[{"name": "v", "hostPath": {"path": str(tmp_path / "data")}}],
            container={
                "volumeMounts": [{"name": "v", "mountPath": "/m", **mount}],
                "env": [{"name": "WHERE", "value": "in"}],
            },
        )

    async with node.agent():
        assert await output(node, pod("linked", subPath="link")) == "inside"
        assert await output(node, pod("expanded", subPathExpr="$(WHERE)")) == "inside"
        done = await node.finished(pod("fresh", subPath="a/b"))
        assert done["status"]["phase"] == "Succeeded"
        assert (tmp_path / "data/a/b/made").exists()
        for name, where in (("abs", "away"), ("rel", "up"), ("deep", "away/ssl")):
            await node.create(pod(name, subPath=where))
            text = await node.until_event(name, "Failed")
            assert "failed to prepare subPath" in text
        mounted = [line for line in open("/proc/self/mountinfo") if str(node.settings.state_dir) in line]  # noqa: SIM115
        assert all("/volume-subpaths/" in line for line in mounted)
    for name in ("abs", "rel", "deep", "linked", "expanded", "fresh"):
        await node.client.delete(POD, name, "default", grace_period_seconds=0)
    async with node.agent():
        await node.running(shell_pod("last", "sleep 1000"))

        def is_clean() -> bool:
            with open("/proc/self/mountinfo") as file:
                return str(node.settings.state_dir) not in file.read()

        async with asyncio.timeout(20):
            while not is_clean():
                await asyncio.sleep(0.01)
    assert (tmp_path / "data/in/file").read_text() == "inside"


async def test_users_groups_and_privileges(node: Any, shell_pod: Any) -> None:
    script = """
        id -u; id -g; id -G
        stat -c '%g %a' /d; touch /d/f; stat -c %g /d/f
        grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status
        touch /no 2>/dev/null || echo read-only
    """
    spec = {
        "securityContext": {"runAsUser": 1000, "runAsGroup": 2000, "fsGroup": 3000, "supplementalGroups": [4000]},
        "volumes": [{"name": "d", "emptyDir": {}}],
        "container": {
            "volumeMounts": [{"name": "d", "mountPath": "/d"}],
            "securityContext": {
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
            },
        },
    }
    async with node.agent():
        lines = (await output(node, shell_pod("user", script, **spec))).splitlines()
    assert lines[:3] == ["1000", "2000", "2000 3000 4000"]
    assert lines[3:5] == ["3000 2777", "3000"]
    shown = dict(line.split(":\t") for line in lines[5:9])
    assert int(shown["CapEff"], 16) == 0
    assert int(shown["CapBnd"], 16) == 1 << 10
    assert (shown["NoNewPrivs"], shown["Seccomp"]) == ("1", "2")
    assert lines[9] == "read-only"


async def test_root_is_refused_where_it_must_not_be(node: Any, shell_pod: Any) -> None:
    async with node.agent():
        await node.create(shell_pod("rooted", securityContext={"runAsNonRoot": True}))
        text = await node.until_event("rooted", "Failed: Error: container has runAsNonRoot")
        assert "image will run as root" in text


async def test_names_and_managed_files(node: Any, shell_pod: Any) -> None:
    spec = {
        "hostname": "box",
        "subdomain": "sub",
        "hostAliases": [{"ip": "192.0.2.9", "hostnames": ["far", "away"]}],
        "dnsPolicy": "None",
        "dnsConfig": {"nameservers": ["192.0.2.53"], "searches": ["a.b"], "options": [{"name": "ndots", "value": "2"}]},
    }
    script = "hostname; cat /etc/hostname; cat /etc/resolv.conf; grep -E '198|192' /etc/hosts"
    async with node.agent():
        text = await output(node, shell_pod("named", script, **spec))
    assert text.splitlines() == [
        "box",
        "box",
        "nameserver 192.0.2.53",
        "search a.b",
        "options ndots:2",
        "198.51.100.1\tbox.sub.default.svc.cluster.local\tbox",
        "192.0.2.9\tfar\taway",
    ]


async def test_limits_reach_the_cgroups_of_pod_and_container(node: Any, shell_pod: Any) -> None:
    resources = {"requests": {"cpu": "100m", "memory": "32Mi"}, "limits": {"cpu": "200m", "memory": "64Mi"}}
    async with node.agent():
        pod = await node.running(shell_pod("limited", "sleep 1000", container={"resources": resources}))
        assert pod["status"]["qosClass"] == "Burstable"
        uid = pod["metadata"]["uid"]
        group = f"{node.settings.cgroup_root}/kubepods/burstable/pod{uid}"
        identifier = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("pyk://")
        for path in (group, f"{group}/{identifier}"):
            limits = node.cgroups.limits(path)
            assert (limits.cpu_millicores, limits.memory_bytes) == (200, 64 << 20)
        assert node.cgroups.limits(group).pids == 4096
        pid = node.pods.container("default", "limited", "main").pid
        with open(f"/proc/{pid}/oom_score_adj") as file:
            assert 2 < int(file.read()) < 1000


async def test_containers_of_a_pod_share_what_the_pod_says(node: Any, shell_pod: Any) -> None:
    other = {
        "name": "other",
        "image": "pyk.local/busybox:1",
        "command": ["/bin/sh", "-c", "echo $$$$ >/dev/shm/pid; exec sleep 1000"],
    }
    script = "until test -s /dev/shm/pid; do sleep 0.05; done; kill -0 $(cat /dev/shm/pid) && echo visible; sleep 1000"
    async with node.agent():
        pod = shell_pod("shared", script, shareProcessNamespace=True)
        pod["spec"]["containers"].append(other)
        shown = await node.running(pod)
        async with asyncio.timeout(20):
            while node.log(shown) != "visible\n":
                await asyncio.sleep(0.02)
        states = [node.pods.container("default", "shared", name) for name in ("main", "other")]
        for namespace in ("net", "ipc", "uts", "pid"):
            assert len({os.readlink(f"/proc/{state.pid}/ns/{namespace}") for state in states}) == 1
        assert len({os.readlink(f"/proc/{state.pid}/ns/mnt") for state in states}) == 2


async def test_the_host_image_shows_the_programs_of_the_host_read_only(node: Any, shell_pod: Any) -> None:
    container = {"image": "pyk.local/host:any"}
    script = """
        perl -e 'print 6*7, qq(\\n)'; touch /usr/x 2>&1; stat -c %a /tmp
        ls /root /home /var/lib; touch /made && echo ok
    """
    async with node.agent():
        lines = (await output(node, shell_pod("host", script, container=container))).splitlines()
    assert lines[0] == "42"
    assert "Read-only" in lines[1]
    assert lines[2] == "1777"
    assert [line for line in lines[3:] if line] == ["/home:", "/root:", "/var/lib:", "ok"]


async def test_secrets_never_reach_the_disk(node: Any, shell_pod: Any) -> None:
    await node.create(secret("sec", pw="needle"))
    spec = {
        "volumes": [{"name": "s", "secret": {"secretName": "sec"}}],
        "container": {"volumeMounts": [{"name": "s", "mountPath": "/s"}]},
    }
    async with node.agent():
        pod = await node.running(shell_pod("quiet", "cat /s/pw; sleep 1000", **spec))
        path = node.settings.state_dir / "secrets" / pod["metadata"]["uid"] / "s"
        assert (node.settings.state_dir / "secrets").is_mount()
        assert not any(node.settings.state_dir.glob("pods/*/volumes/*/s"))
        await node.client.patch(SECRET, "sec", "default", {"data": {"pw": base64.b64encode(b"new").decode()}})
        async with asyncio.timeout(20):
            while (path / "pw").read_bytes() != b"new":
                await asyncio.sleep(0.02)


async def test_an_image_in_use_keeps_its_layers(node: Any, shell_pod: Any, tmp_path: Any) -> None:
    root = tmp_path / "rootfs"
    (root / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    (root / "bin/sh").symlink_to("busybox")
    (layer,) = node.images.import_rootfs("team/used:1", root).layers
    async with node.agent():
        await node.running(shell_pod("user", "exec busybox sleep 1000", container={"image": "team/used:1"}))
        assert await asyncio.to_thread(node.images.remove, "team/used:1")
        assert layer.is_dir()
        await node.client.delete(POD, "user", "default", grace_period_seconds=0)
        await node.until_gone("user")
        async with asyncio.timeout(20):
            while await node.runtime.list_containers():
                await asyncio.sleep(0.02)
    (root / "other").touch()
    node.images.import_rootfs("team/other:1", root)
    assert await asyncio.to_thread(node.images.remove, "team/other:1")
    assert not layer.exists()
