"""`pyk apply` and `kubectl apply`, in both modes and mixed, against a whole cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.e2e.harness import Cluster

CONFIG = """\
apiVersion: v1
kind: ConfigMap
metadata:
  name: shared
data:
  a: "1"
  b: "1"
"""


def managers(obj: Any) -> set[tuple[str, str]]:
    return {(each["manager"], each["operation"]) for each in obj["metadata"].get("managedFields", ())}


def shared(cluster: Cluster, namespace: str) -> Any:
    return json.loads(cluster.kubectl("get", "cm/shared", "-n", namespace, "-o=json", "--show-managed-fields").stdout)


def test_pyk_apply_names_the_owner_and_the_line_of_a_conflict(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    path = tmp_path / "shared.yaml"
    path.write_text(CONFIG)
    apply = ("apply", "-f", str(path), "-n", namespace)
    assert "configmap/shared created" in cluster.pyk(*apply).stdout
    assert "configmap/shared unchanged" in cluster.pyk(*apply, "--server-side").stdout
    cluster.kubectl("patch", "cm/shared", "-n", namespace, "-p", '{"data":{"b":"2"}}')
    refused = cluster.pyk(*apply, check=False)
    assert refused.returncode == 1
    assert refused.stderr.splitlines() == [
        f"pyk: {path}:7: ConfigMap 'shared': data.b is owned by \"kubectl-patch\" using v1",
        "pyk: --force-conflicts takes them over",
    ]
    assert "configured" in cluster.pyk(*apply, "--force-conflicts").stdout
    path.write_text(CONFIG.replace('  b: "1"\n', ""))
    cluster.pyk(*apply)
    assert shared(cluster, namespace)["data"] == {"a": "1"}


def test_pyk_apply_shows_the_difference_and_changes_nothing(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    path = tmp_path / "shared.yaml"
    path.write_text(CONFIG)
    apply = ("apply", "-f", str(path), "-n", namespace)
    assert "+  a: '1'" in cluster.pyk(*apply, "--diff").stdout
    assert cluster.get("cm", "-n", namespace, "--field-selector", "metadata.name=shared")["items"] == []
    cluster.pyk(*apply)
    assert cluster.pyk(*apply, "--diff").stdout == ""
    path.write_text(CONFIG.replace('a: "1"', 'a: "2"'))
    shown = cluster.pyk(*apply, "--diff").stdout.splitlines()
    assert [line for line in shown if line[0] in "+-"][2:] == ["-  a: '1'", "+  a: '2'"]
    assert shared(cluster, namespace)["data"]["a"] == "1"


def test_an_object_of_kubectls_client_side_apply_is_taken_over(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    path = tmp_path / "shared.yaml"
    path.write_text(CONFIG)
    cluster.kubectl("apply", "-f", str(path), "-n", namespace)
    assert managers(shared(cluster, namespace)) == {("kubectl-client-side-apply", "Update")}
    path.write_text(CONFIG.replace('  b: "1"\n', '  c: "1"\n').replace('a: "1"', 'a: "2"'))
    assert "configured" in cluster.pyk("apply", "-f", str(path), "-n", namespace).stdout
    now = shared(cluster, namespace)
    assert now["data"] == {"a": "2", "c": "1"}
    assert managers(now) == {("pyk", "Apply")}
    assert "annotations" not in now["metadata"]
    both = cluster.kubectl("apply", "--server-side", "-f", str(path), "-n", namespace)
    assert "serverside-applied" in both.stdout
    assert managers(shared(cluster, namespace)) == {("pyk", "Apply"), ("kubectl", "Apply")}
