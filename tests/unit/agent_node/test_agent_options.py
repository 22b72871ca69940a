"""The agent's options: KubeletConfiguration files and flags, and what is refused of them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from agent.optionflags import add_option_flags
from agent.options import EVICTION_HARD, BadOptions, NodeOptions, as_configuration, options_of, read_files

HEAD = {"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration"}


def of(*documents: dict[str, Any], **flags: Any) -> NodeOptions:
    return options_of([(f"file{number}", HEAD | document) for number, document in enumerate(documents)], flags)


def test_nothing_said_means_kubernetes_defaults() -> None:
    options = of(max_pods=None)
    assert options == NodeOptions()
    assert options.eviction_hard == EVICTION_HARD
    assert (options.container_log_max_size, options.container_log_max_files) == (10 << 20, 5)


def test_named_processors_stand_for_the_reserved_amount() -> None:
    reserved = {"kubeReserved": {"cpu": "100m", "memory": "1Gi"}, "systemReserved": {"cpu": "200m"}}
    assert of(reserved).reserved == {"cpu": 300, "memory": 1 << 30}
    assert of(reserved | {"reservedSystemCPUs": "0-1"}).reserved == {"cpu": 2000, "memory": 1 << 30}


def test_later_files_win_over_earlier_ones_and_flags_over_both() -> None:
    options = of(
        {"maxPods": 10, "podPidsLimit": 20, "evictionHard": {"memory.available": "1Gi"}},
        {"podPidsLimit": 30, "evictionPressureTransitionPeriod": "1m30s"},
        max_pods=40,
    )
    assert (options.max_pods, options.pod_pids_limit, options.eviction_pressure_transition_period) == (40, 30, 90.0)
    assert options.eviction_hard == {"memory.available": "1Gi"}  # a map is replaced whole


@pytest.mark.parametrize(
    ("document", "wrong"),
    [
        ({"evictionHard": {"memory.free": "1Gi"}}, "unknown eviction signal 'memory.free'"),
        ({"evictionSoft": {"memory.available": "1Gi"}}, "grace period must be specified"),
        ({"evictionSoftGracePeriod": {"memory.available": "soon"}}, "file0: evictionSoftGracePeriod: 'soon' is no dur"),
        ({"kubeReserved": {"gpu": "1"}}, "file0: kubeReserved: 'gpu' cannot be reserved"),
        ({"maxPods": "many"}, "file0: maxPods: 'many' is no integer"),
        ({"maxPod": 1}, "file0: maxPod is not known here; known are "),
        ({"kind": "Pod"}, "file0: kind is 'Pod', not KubeletConfiguration"),
        ({"containerLogMaxFiles": 1}, "containerLogMaxFiles must be greater than 1"),
        ({"containerLogMaxSize": "big"}, "file0: containerLogMaxSize: quantities must match"),
        ({"imageGCLowThresholdPercent": 90}, "imageGCLowThresholdPercent must be less"),
        ({"enforceNodeAllocatable": ["all"]}, "'all' is not known here"),
        ({"cpuManagerPolicy": "dynamic"}, "cpuManagerPolicy 'dynamic' is not known"),
        ({"reservedSystemCPUs": "all"}, "file0: reservedSystemCPUs: "),
    ],
)
def test_what_cannot_be_followed_is_refused_in_one_line(document: dict[str, Any], wrong: str) -> None:
    with pytest.raises(BadOptions) as raised:
        of(document)
    assert str(raised.value).startswith(wrong) or wrong in str(raised.value)
    assert "\n" not in str(raised.value)


def test_files_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    main = tmp_path / "main.yaml"
    for path, pods in ((main, 1), (tmp_path / "d" / "20.conf", 3), (tmp_path / "d" / "10.conf", 2)):
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"apiVersion: {HEAD['apiVersion']}\nkind: {HEAD['kind']}\nmaxPods: {pods}\n")
    (tmp_path / "d" / "note.txt").write_text("not read")
    found = read_files([main], [tmp_path / "none", tmp_path / "d"])
    assert [document["maxPods"] for _, document in found] == [1, 2, 3]
    with pytest.raises(BadOptions, match=r"gone\.yaml: .*No such file"):
        read_files([tmp_path / "gone.yaml"], [])
    main.write_text("{")
    with pytest.raises(BadOptions, match=r"main\.yaml: "):
        read_files([main], [])


def test_flags_are_the_kubelets(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_option_flags(parser)
    given = parser.parse_args(
        [
            *("--eviction-hard", "memory.available<10%,nodefs.available<1Gi"),
            *("--eviction-soft", "memory.available<20%", "--eviction-soft-grace-period", "memory.available=1m"),
            *("--kube-reserved", "cpu=100m,memory=64Mi", "--container-log-max-size", "1Mi"),
        ]
    )
    assert given.eviction_hard == {"memory.available": "10%", "nodefs.available": "1Gi"}
    assert given.eviction_soft_grace_period == {"memory.available": 60.0}
    assert given.kube_reserved == {"cpu": "100m", "memory": "64Mi"}
    assert (given.container_log_max_size, given.max_pods) == (1 << 20, None)
    for words, wrong in (
        (["--kube-reserved", "gpu=1"], "'gpu' cannot be reserved"),
        (["--eviction-hard", "x"], "NAME<V"),
    ):
        with pytest.raises(SystemExit):
            parser.parse_args(words)
        assert wrong in capsys.readouterr().err


def test_the_options_are_shown_as_a_configuration_that_can_be_read_again() -> None:
    options = of({"evictionSoft": {"memory.available": "1Gi"}, "evictionSoftGracePeriod": {"memory.available": "90s"}})
    shown = as_configuration(options)
    assert shown["evictionSoftGracePeriod"] == {"memory.available": "90s"}
    assert options_of([("shown", shown)], {}) == options
