"""Names, addresses and options of a local cluster: pure functions."""

from __future__ import annotations

import ipaddress
import json
from itertools import pairwise
from pathlib import Path

import pytest

from pyk.errors import UserError
from pyk.lab import kubeconfig, state
from pyk.lab.addresses import SUBNETS, cluster_cidr, free_subnets, node_subnet, service_cidr
from pyk.lab.defaults import with_defaults
from pyk.lab.layout import Layout, Options, check_options, prefix_of
from pyk.lab.podroutes import pod_networks
from pyk.lab.teardown import unmount_below
from pyk.machine.keeping import HEALTHY_SECONDS, counted_failures, restart_delay


def networks(*texts: str) -> list[ipaddress.IPv4Network]:
    return [ipaddress.IPv4Network(text) for text in texts]


def test_names_derive_from_the_clusters_name_and_begin_with_pyk() -> None:
    layout = Layout(Options(name="blue", nodes=2, subnet=7))
    assert layout.node_names() == ["node-1", "node-2"]
    assert layout.cgroup == "/pyk-blue"
    assert layout.namespace("node-2") == "/run/netns/pyk-blue-node-2"
    assert (layout.bridge, layout.node_link("node-2")) == ("pyk-blue-br0", "pyk-blue-n2")
    assert (layout.bridge_address, layout.node_address("node-2")) == ("10.88.7.1", "10.88.7.12")
    assert str(layout.cluster_cidr) == "10.107.0.0/16"
    assert prefix_of("pyk") == "pyk"


@pytest.mark.parametrize("name", ["pyk", "blue", "a-very-long-name-of-a-cluster"])
def test_link_names_fit_the_kernels_fifteen_characters(name: str) -> None:
    layout = Layout(Options(name=name, nodes=200))
    assert max(len(layout.node_link("node-200")), len(layout.bridge)) <= 15
    assert layout.is_link(layout.bridge)
    assert layout.is_link(layout.node_link("node-200"))


def test_another_clusters_things_are_not_ours() -> None:
    ours, other = Layout(Options(name="pyk")), Layout(Options(name="pyk-2"))
    assert not ours.is_link(other.bridge)
    assert not ours.is_link(other.node_link("node-1"))
    assert not ours.is_link("pyk0")
    assert not ours.is_namespace("pyk-2-node-1")
    assert ours.is_namespace("pyk-node-12")


def test_a_subnet_is_free_when_neither_nodes_nor_pods_meet_a_route() -> None:
    in_use = networks("10.88.0.0/24", "10.101.5.0/24", "192.0.2.0/24", "0.0.0.0/0")
    assert free_subnets(in_use)[0] == 2
    assert len(free_subnets(in_use)) == SUBNETS - 2


def test_a_wide_route_over_everything_is_no_obstacle() -> None:
    assert free_subnets(networks("10.0.0.0/8", "10.88.0.0/24"))[0] == 1


def test_subnets_do_not_overlap() -> None:
    for family in (4, 6):
        made = (node_subnet, cluster_cidr, service_cidr)
        bounds = sorted(
            (int(network.network_address), int(network.broadcast_address))
            for k in range(SUBNETS)
            for network in (each(k, family) for each in made)
        )
        assert all(last < first for (_, last), (first, _) in pairwise(bounds))


def test_nodes_are_dealt_to_the_segments_and_have_an_address_of_each_family() -> None:
    layout = Layout(Options(nodes=4, ip_family="dual", segments=2, subnet=3))
    assert [layout.segment_of(node) for node in layout.node_names()] == [0, 1, 0, 1]
    assert layout.node_addresses("node-2") == ["10.88.3.75", "fd70:796b:3:1::b"]
    assert layout.node_addresses("node-3") == ["10.88.3.12", "fd70:796b:3::c"]
    assert layout.router_addresses(1) == ["10.88.3.66", "fd70:796b:3:1::2"]
    assert [str(cidr) for cidr in layout.cluster_cidrs] == ["10.103.0.0/16", "fd70:796b:3:100::/56"]
    assert layout.cluster_dns == ["10.32.192.10", "fd70:796b:3:ffff::a"]
    assert Layout(Options(ip_family="ipv6", subnet=3)).node_server == "https://[fd70:796b:3::1]:6443"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (Options(name="Blue"), "--name 'Blue'"),
        (Options(nodes=0), "--nodes 0"),
        (Options(segments=5), "--segments 5"),
        (Options(nodes=120, segments=2), "for each of several segments"),
        (Options(ip_family="ipx"), "--ip-family ipx"),
        (Options(port=0), "--port 0"),
        (Options(store="mysql"), "--store mysql"),
        (Options(etcd_endpoints=("h:1",)), "needs --store etcd"),
        (Options(node_cpus="lots"), "quantities"),
        (Options(node_cpus="1m"), "at least 100m"),
        (Options(node_memory="1Mi"), "at least 256Mi"),
    ],
)
def test_options_that_cannot_work_are_one_line(options: Options, says: str) -> None:
    with pytest.raises(UserError, match=says):
        check_options(options)


def test_the_usual_options_work() -> None:
    check_options(Options())


def test_what_is_on_record_is_the_default_of_the_next_start(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    given = {"name": "blue", "data_dir": str(data_dir), "nodes": 5, "port": None}
    first = with_defaults(given, tmp_path)
    assert (first.nodes, first.port) == (5, 6443)
    assert first.kubeconfig == str(tmp_path / ".pyk" / "blue.kubeconfig")
    state.claim(data_dir)
    state.ClusterState(first).save()
    again = with_defaults({"data_dir": str(data_dir), "port": 7000}, tmp_path)
    assert (again.name, again.nodes, again.port) == ("blue", 5, 7000)
    with pytest.raises(UserError, match="has the cluster blue"):
        with_defaults({"name": "red", "data_dir": str(data_dir)}, tmp_path)
    with pytest.raises(UserError, match="--store sqlite"):
        with_defaults({"data_dir": str(data_dir), "store": "etcd"}, tmp_path)


def test_the_state_survives_being_written_and_read(tmp_path: Path) -> None:
    options = Options(name="blue", data_dir=str(tmp_path), subnet=3, etcd_endpoints=("127.0.0.1:2379",), store="etcd")
    before = state.ClusterState(options, {"supervisor": state.Process(7, 11)}, ["node-2"])
    before.save()
    assert state.ClusterState.load(tmp_path) == before
    document = json.loads((tmp_path / "cluster.json").read_text())
    assert document["nodes"]["node-1"]["address"] == "10.88.3.11"


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"options": {}}'])
def test_a_state_that_cannot_be_read_is_none(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "cluster.json").write_text(content)
    assert state.ClusterState.load(tmp_path) is None


def test_only_one_holds_the_lock(tmp_path: Path) -> None:
    held = state.lock(tmp_path)
    assert held is not None
    assert state.lock(tmp_path) is None


def test_a_folder_with_files_of_others_is_not_claimed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="not empty"):
        state.claim(tmp_path)
    assert not state.is_ours(tmp_path)


def test_a_kubeconfig_is_known_by_its_first_line(tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    assert kubeconfig.owner_of(file) is None
    file.write_text("# Written by 'pyk up' for the cluster of /var/lib/x; 'pyk down' removes it.\nkind: Config\n")
    assert kubeconfig.owner_of(file) == Path("/var/lib/x")
    kubeconfig.remove(file, Path("/var/lib/y"))
    assert file.exists()
    kubeconfig.remove(file, Path("/var/lib/x"))
    assert not file.exists()


def test_a_kubeconfig_that_kubectl_has_rewritten_is_still_known(tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    mark = "- extension:\n    dataDir: /var/lib/x\n  name: pyk.io/cluster\n"
    file.write_text(f"apiVersion: v1\nextensions:\n{mark}kind: Config\n")
    assert kubeconfig.owner_of(file) == Path("/var/lib/x")
    file.write_text(f"apiVersion: v1\nextensions:\n{mark.replace('pyk.io/cluster', 'else')}kind: Config\n")
    assert kubeconfig.owner_of(file) is None


def test_restarts_back_off_up_to_half_a_minute() -> None:
    assert [restart_delay(failures) for failures in range(7)] == [1, 2, 4, 8, 16, 30, 30]


def test_only_ends_of_a_components_own_soon_after_its_start_count_against_it() -> None:
    assert counted_failures(3, status=1, lived=0.5) == 3
    assert counted_failures(3, status=1, lived=HEALTHY_SECONDS) == 0
    assert counted_failures(3, status=-9, lived=0.5) == 0
    assert counted_failures(3, status=-11, lived=0.5) == 3


def test_pods_are_routed_by_the_address_of_their_node() -> None:
    nodes = [
        {"spec": {"podCIDR": "10.1.0.0/24"}, "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}},
        {"spec": {}, "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.2"}]}},
        {"spec": {"podCIDR": "10.1.2.0/24"}},
    ]
    assert pod_networks(nodes) == {"10.1.0.0/24": "192.0.2.1"}


def test_unmounting_a_folder_without_mounts_does_nothing(tmp_path: Path) -> None:
    unmount_below(tmp_path)
