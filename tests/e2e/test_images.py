"""Pods whose images come from a registry, and `pyk image`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.e2e.harness import Cluster, container_status, pod_document
from tests.registry import make_image, needs_registry, registry, run, send

pytestmark = needs_registry

PASSWORD = "me:$2b$04$xAVqqLTLah1ZA2L.qm3/I.V5cIC4XZDO3Jg.JtAblt0f6VfNdq4aC"  # "secret"
BUSYBOX = next((path for path in (Path("/bin/busybox"), Path("/usr/bin/busybox")) if path.exists()), None)


@pytest.fixture(scope="module")
def place(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A private registry that the nodes reach, which they know as `registry.test`."""
    folder = tmp_path_factory.mktemp("registry")
    (folder / "users").write_text(f"{PASSWORD}\n")
    config = yaml.safe_load(cluster.kubectl("get", "nodes", "-o", "yaml").stdout)
    node = config["items"][0]["status"]["addresses"][0]["address"]
    address = f"{node.rpartition('.')[0]}.1"  # the machine's end of the nodes' segment
    auth = {"htpasswd": {"realm": "test", "path": str(folder / "users")}}
    with registry(folder, address=address, auth=auth) as found:
        mirrors = {"mirrors": {name: {"endpoint": [f"http://{found}"]} for name in ("registry.test", found)}}
        (cluster.data_dir / "registries.yaml").write_text(yaml.safe_dump(mirrors))
        assert BUSYBOX is not None
        files: list[dict[str, str | None]] = [{"etc/motd": "hello\n", "etc/secret": "x"}, {"etc/secret": None}]
        layout = make_image(folder / "image", files, cmd="/bin/none")
        send(layout, f"{found}/team/base:1", "--dest-creds", "me:secret")
        _add_busybox(folder, layout)
        send(layout, f"{found}/team/app:1", "--dest-creds", "me:secret")
        yield found
        (cluster.data_dir / "registries.yaml").unlink()


def _add_busybox(folder: Path, layout: Path) -> None:
    assert BUSYBOX is not None
    bundle = folder / "bundle"
    run("umoci", "unpack", "--image", f"{layout}:latest", bundle)
    (bundle / "rootfs/bin").mkdir(exist_ok=True)
    shutil.copy(BUSYBOX, bundle / "rootfs/bin/busybox")
    for name in ("sh", "cat", "ls", "sleep"):
        (bundle / "rootfs/bin" / name).symlink_to("busybox")
    run("umoci", "repack", "--image", f"{layout}:latest", bundle)
    run("umoci", "config", "--image", f"{layout}:latest", "--config.cmd", "/bin/sh", "--config.env", "GREETING=hi")


def test_a_private_image_is_pulled_with_the_pod_s_secret_and_only_so(
    cluster: Cluster, namespace: str, place: str
) -> None:
    image = "registry.test/team/app:1"
    without = pod_document("without", "sleep 1000", container={"image": image})
    cluster.apply(without, namespace)
    words = ["create", "secret", "docker-registry", "key", "-n", namespace]
    login = ["--docker-server=registry.test", "--docker-username=me", "--docker-password=secret"]
    cluster.kubectl(*words, *login)
    script = 'cat /etc/motd; echo "$GREETING"; ls /etc'
    container, secrets = {"image": image}, [{"name": "key"}]
    document = pod_document("with", script, container=container, restartPolicy="Never", imagePullSecrets=secrets)
    cluster.apply(document, namespace)
    done = cluster.wait_pod(namespace, "with", lambda pod: pod["status"]["phase"] == "Succeeded", "has run")
    out = cluster.kubectl("logs", "with", "-n", namespace).stdout
    assert out.startswith("hello\nhi\n")
    assert "secret" not in out
    assert container_status(done)["imageID"].startswith("registry.test/team/app@sha256:")

    def waits(pod: dict[str, object]) -> bool:
        return (container_status(pod).get("state") or {}).get("waiting", {}).get("reason") == "ImagePullBackOff"

    cluster.wait_pod(namespace, "without", waits, "backs off")
    events = json.loads(cluster.kubectl("get", "events", "-n", namespace, "-o", "json").stdout)["items"]
    told = {(event["involvedObject"]["name"], event["reason"]): event["message"] for event in events}
    assert told["with", "Pulling"] == f'Pulling image "{image}"'
    assert "Image size: " in told["with", "Pulled"]
    failures = [event["message"] for event in events if event["involvedObject"]["name"] == "without"]
    assert any("no basic auth credentials" in message for message in failures)


def test_pyk_image_pulls_loads_and_pushes(cluster: Cluster, place: str) -> None:
    def image(*words: str) -> str:
        return cluster.pyk("image", words[0], "--data-dir", str(cluster.data_dir), *words[1:]).stdout

    pulled = image("pull", "registry.test/team/base:1", "--creds", "me:secret")
    assert pulled.startswith("registry.test/team/base:1 pulled (")
    assert "registry.test/team/base:1" in image("ls")
    pushed = image("push", "registry.test/team/base:1", f"{place}/team/copy:2", "--creds", "me:secret")
    assert "pushed (sha256:" in pushed
    image("rm", "registry.test/team/base:1")
    assert "team/base" not in image("ls")
    words = ["image", "pull", "--data-dir", str(cluster.data_dir), "registry.test/none:1"]
    refused = cluster.pyk(*words, check=False)
    assert refused.returncode == 1
    assert refused.stderr.startswith("pyk: failed to pull and unpack image")
