"""The configuration file: what it turns into, and that mistakes are told in one line; rules from outside."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pyk.api.metrics import PRESSURES
from pyk.errors import UserError
from scheduler.config import BadConfiguration, Configuration, load, parse
from scheduler.decide import Decider
from scheduler.profile import Profile
from scheduler.usage import take_in

EXAMPLE = Path(__file__).parents[3] / "examples" / "scheduler-plugin"
HEAD = {"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration"}


def profile(**fields: Any) -> Profile:
    return parse({**HEAD, "profiles": [fields]}).profiles[0]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example's package as an installer leaves it: the module, and its metadata with the entry point."""
    shutil.copy(EXAMPLE / "quiet_racks.py", tmp_path)
    metadata = tmp_path / "quiet_racks-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: quiet-racks\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[pyk.scheduler]\nQuietRacks = quiet_racks:QuietRacks\n")
    monkeypatch.syspath_prepend(tmp_path)


def test_an_empty_configuration_is_the_default() -> None:
    assert parse(HEAD) == Configuration()


def test_times_and_several_profiles() -> None:
    found = parse(
        {
            **HEAD,
            "podInitialBackoffSeconds": 2,
            "podMaxBackoffSeconds": 20,
            "profiles": [{}, {"schedulerName": "other", "plugins": {"score": {"disabled": [{"name": "*"}]}}}],
        }
    )
    assert (found.first_backoff, found.longest_backoff) == (2, 20)
    assert [each.scheduler_name for each in found.profiles] == ["default-scheduler", "other"]
    assert found.profiles[1].weights == {}


def test_plugins_are_switched_off_and_on_with_other_weights(cluster: Any) -> None:
    without = profile(plugins={"filter": {"disabled": [{"name": "TaintToleration"}]}})
    cluster.node("n", taints=["k=v:NoSchedule"])
    cluster.decider = Decider(cluster.snapshot, without)
    assert cluster.schedule().node == "n"
    only = {"disabled": [{"name": "*"}], "enabled": [{"name": "NodeAffinity", "weight": 7}]}
    assert profile(plugins={"score": only}).weights == {"NodeAffinity": 7}


def test_a_packing_profile_fills_nodes_up(cluster: Any) -> None:
    cluster.node("empty", cpu="4")
    cluster.node("half", cpu="4")
    cluster.place("half", cpu="2", memory="4Gi")
    strategy = {"type": "MostAllocated", "resources": [{"name": "cpu", "weight": 3}, {"name": "memory"}]}
    off = [{"name": "NodeResourcesBalancedAllocation"}]
    packing = profile(
        plugins={"score": {"disabled": off}},
        pluginConfig=[{"name": "NodeResourcesFit", "args": {"scoringStrategy": strategy}}],
    )
    assert cluster.schedule(cpu="1").node == "empty"
    cluster.decider = Decider(cluster.snapshot, packing)
    assert cluster.schedule(cpu="1").node == "half"


@pytest.mark.parametrize(("used", "score"), [("0", 0), ("1", 25), ("2", 50), ("3", 75), ("4", 100)])
def test_a_ratio_follows_its_shape(cluster: Any, used: str, score: int) -> None:
    shape = [{"utilization": 0, "score": 0}, {"utilization": 100, "score": 10}]
    strategy = {
        "type": "RequestedToCapacityRatio",
        "resources": [{"name": "cpu"}],
        "requestedToCapacityRatio": {"shape": shape},
    }
    ratio = profile(
        plugins={"score": {"disabled": [{"name": "*"}], "enabled": [{"name": "NodeResourcesFit"}]}},
        pluginConfig=[{"name": "NodeResourcesFit", "args": {"scoringStrategy": strategy}}],
    )
    cluster.node("n", cpu="4")
    cluster.decider = Decider(cluster.snapshot, ratio)
    assert cluster.schedule(cpu=used if used != "0" else "1m").score == score


def test_every_pod_is_held_to_the_added_affinity(cluster: Any) -> None:
    term = {"matchExpressions": [{"key": "pool", "operator": "In", "values": ["web"]}]}
    added = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    held = profile(pluginConfig=[{"name": "NodeAffinity", "args": {"addedAffinity": added}}])
    cluster.node("n")
    cluster.decider = Decider(cluster.snapshot, held)
    assert "1 node(s) didn't match scheduler-enforced node affinity" in cluster.message()


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ([], "the file must be a mapping"),
        ({"apiVersion": "v1", "kind": "Pod"}, "apiVersion must be kubescheduler.config.k8s.io/v1"),
        ({**HEAD, "extenders": []}, "'extenders' is not understood"),
        ({**HEAD, "profiles": [{}, {}]}, "each needs a schedulerName of its own"),
        ({**HEAD, "podMaxBackoffSeconds": 0}, "must be a number of at least 1"),
        ({**HEAD, "profiles": [{"plugins": {"bind": {}}}]}, "profiles[0].plugins: 'bind' is not understood"),
        (
            {**HEAD, "profiles": [{"plugins": {"score": {"disabled": [{"name": "Nope"}]}}}]},
            "there is no plugin 'Nope'",
        ),
        (
            {**HEAD, "profiles": [{"plugins": {"filter": {"enabled": [{"name": "Nope"}]}}}]},
            "there is no scheduler plugin 'Nope'",
        ),
        ({**HEAD, "profiles": [{"pluginConfig": [{"name": "NodePorts"}]}]}, "takes no arguments"),
    ],
)
def test_a_mistake_is_told_in_one_line(document: Any, told: str) -> None:
    with pytest.raises(UserError, match=r".") as caught:
        parse(document)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_not_yaml_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="No such file"):
        load(tmp_path / "none")
    (tmp_path / "bad").write_text("a: [")
    with pytest.raises(BadConfiguration, match="not YAML"):
        load(tmp_path / "bad")


@pytest.mark.usefixtures("installed")
def test_the_example_rule_filters_and_scores(cluster: Any) -> None:
    default, packing = load(EXAMPLE / "scheduler.yaml").profiles
    assert packing.strategy.kind == "MostAllocated"
    cluster.decider = Decider(cluster.snapshot, default)
    cluster.node("quiet", labels={"rack": "r1"})
    assert cluster.message(labels={"noise": "loud"}) == "0/1 nodes are available: 1 node(s) were in a quiet rack."
    assert cluster.schedule().node == "quiet"
    cluster.node("loud", labels={"rack": "r9"}, pods="10")
    assert cluster.schedule(labels={"noise": "loud"}).node == "loud"
    scores = {name: weight for name, weight, _ in cluster.decider.verdict(cluster.signature()).scores()}
    assert scores["QuietRacks"] == 2


def test_a_node_that_is_really_busy_is_avoided_where_the_profile_asks_for_it(cluster: Any) -> None:
    cluster.node("lying", cpu="4")
    cluster.node("honest", cpu="4")
    cluster.place("honest", cpu="1", memory="2Gi")
    assert cluster.schedule(cpu="100m").node == "lying"
    real = profile(plugins={"score": {"enabled": [{"name": "NodeRealUsage", "weight": 3}]}})
    cluster.decider = Decider(cluster.snapshot, real)
    figures = [
        {"metadata": {"name": "lying"}, "usage": {"cpu": "3900m", "memory": "1Gi"}},
        {"metadata": {"name": "honest"}, "usage": {"cpu": "500m", "memory": "1Gi"}},
    ]
    take_in(cluster.snapshot, figures)
    assert cluster.schedule(cpu="100m").node == "honest"
    figures[0]["usage"] = {"cpu": "0", "memory": "0"}
    take_in(cluster.snapshot, figures)
    assert cluster.snapshot.figures.used["lying"][0] == 1950  # smoothed


def test_a_node_where_work_waits_is_avoided_however_little_its_pods_request_and_use(cluster: Any) -> None:
    cluster.node("stalled", cpu="4")
    cluster.node("honest", cpu="4")
    cluster.place("honest", cpu="2", memory="2Gi")
    cluster.decider = Decider(
        cluster.snapshot, profile(plugins={"score": {"enabled": [{"name": "NodeRealUsage", "weight": 3}]}})
    )

    def told(stalled: str, resource: str = "memory") -> None:
        waits = {PRESSURES[resource]: stalled}
        usage = {"cpu": "400m", "memory": "1Gi"}
        figures = [{"metadata": {"name": name}, "usage": usage} for name in ("stalled", "honest")]
        figures[0]["metadata"]["annotations"] = waits  # type: ignore[index]
        take_in(cluster.snapshot, figures)

    told("0.00")
    assert cluster.schedule(cpu="100m").node == "stalled"
    told("95.00")
    assert cluster.snapshot.figures.used["stalled"][2] == 0.475  # a peak counts half
    told("95.00")
    assert cluster.schedule(cpu="100m").node == "honest"
    for _ in range(8):
        told("0.00", "io")
    assert cluster.schedule(cpu="100m").node == "stalled"
    told("many")  # what cannot be read is as if the node had told nothing
    assert "stalled" not in cluster.snapshot.figures.used
