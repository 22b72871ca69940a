"""What bad input gets: file, line, field and reason, exit status 1, and nothing half-applied."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.e2e.harness import Cluster, deployment_document, pod_document

POD = """\
apiVersion: v1
kind: Pod
metadata:
  name: bad
spec:
  containers:
  - name: main
    image: pyk.local/host
"""


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (POD.replace("spec:", "spec: {"), 7, "the YAML is broken"),
        (POD.replace("kind: Pod", "kind: Pot"), 2, 'no matches for kind "Pot"'),
        (POD.replace("image:", "imgae:"), 8, "unknown field"),
        (POD + "    command: 5\n", 9, "command"),
        (POD.replace("    image: pyk.local/host\n", ""), 7, "spec.containers[0].image: Required value"),
        (POD.replace("name: bad", "name: Not_Good"), 4, "metadata.name: Invalid value"),
        (POD + "  - name: main\n    image: x\n", 9, "spec.containers[1].name: Duplicate value"),
        (POD + "    resources: {requests: {cpu: lots}}\n", 9, "quantities must match"),
    ],
)
def test_a_bad_manifest_is_refused_with_its_place(
    cluster: Cluster, namespace: str, tmp_path: Path, text: str, line: int, says: str
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    result = cluster.pyk("apply", "-f", str(path), "-n", namespace, check=False)
    assert result.returncode == 1
    assert says in result.stderr
    assert result.stderr.splitlines()[0].startswith(f"pyk: {path}:{line}: ")
    assert "Traceback" not in result.stderr
    assert cluster.get("pods", "-n", namespace)["items"] == []
    told = cluster.kubectl("apply", "-f", str(path), "-n", namespace, check=False)
    assert told.returncode == 1


def test_one_bad_object_does_not_keep_the_good_ones_but_the_status_is_1(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    path = tmp_path / "mixed.yaml"
    good = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "good"}}
    bad = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "bad"}, "data": {"a b": "1"}}
    path.write_text("\n---\n".join(json.dumps(one) for one in (bad, good)))
    result = cluster.pyk("apply", "-f", str(path), "-n", namespace, check=False)
    assert result.returncode == 1
    assert "configmap/good created" in result.stdout
    assert "a b" in result.stderr


def test_a_stale_resource_version_is_a_conflict(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    cluster.kubectl("create", "configmap", "cm", "--from-literal=a=1", "-n", namespace)
    stale = cluster.get("configmap", "cm", "-n", namespace)
    cluster.kubectl("patch", "configmap", "cm", "-n", namespace, "-p", '{"data":{"a":"2"}}')
    stale["data"]["a"] = "3"
    (tmp_path / "stale.json").write_text(json.dumps(stale))
    for command in (cluster.pyk, cluster.kubectl):
        refused = command("apply", "-f", str(tmp_path / "stale.json"), "-n", namespace, check=False)
        assert refused.returncode == 1
        assert "the object has been modified" in refused.stderr
    assert cluster.get("configmap", "cm", "-n", namespace)["data"] == {"a": "2"}


def test_creating_what_exists_is_refused(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    (tmp_path / "pod.yaml").write_text(POD)
    cluster.pyk("create", "-f", str(tmp_path / "pod.yaml"), "-n", namespace)
    again = cluster.pyk("create", "-f", str(tmp_path / "pod.yaml"), "-n", namespace, check=False)
    assert (again.returncode, 'pods "bad" already exists' in again.stderr) == (1, True)


def test_immutable_fields_are_told(cluster: Cluster, namespace: str) -> None:
    cluster.apply(deployment_document("fixed", 0), namespace)
    changed = deployment_document("fixed", 0)
    changed["spec"]["selector"]["matchLabels"] = {"app": "other"}
    changed["spec"]["template"]["metadata"]["labels"] = {"app": "other"}
    refused = cluster.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(changed), check=False)
    assert refused.returncode == 1
    assert "spec.selector" in refused.stderr
    assert "field is immutable" in refused.stderr
    cluster.apply(pod_document("fixed"), namespace)
    other = pod_document("fixed", container={"command": ["sleep", "5"]})
    refused = cluster.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(other), check=False)
    assert "pod updates may not change fields other than" in refused.stderr


def test_a_namespace_that_does_not_exist_is_named(cluster: Cluster) -> None:
    refused = cluster.kubectl("create", "configmap", "x", "-n", "nowhere", check=False)
    assert 'namespaces "nowhere" not found' in refused.stderr


@pytest.mark.parametrize(
    ("path", "token", "status"),
    [
        ("/api/v1/secrets", "", 403),
        ("/api/v1/namespaces/kube-system/pods/x/log", "", 403),
        ("/metrics", "", 403),
        ("/api/v1/secrets", "made-up", 401),
        ("/healthz", "", 200),
    ],
)
def test_without_credentials_nothing_is_learned(cluster: Cluster, path: str, token: str, status: int) -> None:
    request = urllib.request.Request(f"https://127.0.0.1:{cluster.port}{path}")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    unverified = ssl._create_unverified_context()
    try:
        with urllib.request.urlopen(request, context=unverified) as response:
            got = response.status
    except urllib.error.HTTPError as error:
        got = error.code
    assert got == status
