"""A cluster whose scheduler has a configuration of its own: a plug-in from outside, and a second profile."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.harness import make_cluster, pod_document

EXAMPLE = Path(__file__).parents[2] / "examples" / "scheduler-plugin"


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example's package as an installer leaves it, where the cluster's processes find it: its configuration."""
    (tmp_path / "quiet_racks.py").write_text((EXAMPLE / "quiet_racks.py").read_text())
    metadata = tmp_path / "quiet_racks-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: quiet-racks\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[pyk.scheduler]\nQuietRacks = quiet_racks:QuietRacks\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return EXAMPLE / "scheduler.yaml"


def test_a_plug_in_that_the_configuration_switches_on_has_its_say(plugin: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(plugin.read_text().replace("QuietRacks", "NoSuchRule"))
    cluster = make_cluster(tmp_path)
    refused = cluster.up("--nodes", "1", "--scheduler-config", str(wrong), check=False)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert f"{wrong}: " in refused.stderr
    assert "there is no scheduler plugin 'NoSuchRule'" in refused.stderr
    try:
        cluster.up("--nodes", "1", "--scheduler-config", str(plugin))
        (node,) = cluster.get("nodes")["items"]
        cluster.kubectl("label", "node", node["metadata"]["name"], "rack=r1")
        noisy, quiet, other = pod_document("noisy"), pod_document("quiet"), pod_document("other")
        noisy["metadata"]["labels"]["noise"] = "loud"
        other["spec"]["schedulerName"] = "packing"
        cluster.apply([noisy, quiet, other], "default")
        cluster.wait_ready("default", "quiet")
        cluster.wait_ready("default", "other")
        told = cluster.wait_pod(
            "default", "noisy", lambda pod: (pod["status"].get("conditions") or [{}])[0].get("reason"), "is refused"
        )
        assert "1 node(s) were in a quiet rack" in told["status"]["conditions"][0]["message"]
        assert "Refused by QuietRacks:" in cluster.pyk("why", "noisy").stdout
        cluster.kubectl("label", "node", node["metadata"]["name"], "rack-")
        cluster.wait_ready("default", "noisy")
    finally:
        cluster.down()
