"""Options of a control plane and an agent: files and flags, and the one line that a wrong one gets."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pytest

from agent.network.routes import BACKENDS
from pyk.errors import UserError
from pyk.machine import controlplane, install
from pyk.machine.checks import NETWORK_BACKENDS, check_agent, check_server
from pyk.machine.options import (
    AgentOptions,
    ServerOptions,
    add_options,
    given,
    read_file,
    to_file,
)
from pyk.machine.versions import VersionSkew
from pyk.machine.versions import check as check_versions
from pyk.reconcile.clock import RealClock

DUAL_PODS, DUAL_SERVICES = "10.244.0.0/16,fd00:1::/56", "10.96.0.0/16,fd00:2::/108"


def test_a_flag_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    file = tmp_path / "server.yaml"
    file.write_text("port: 7000\ntls-san: a.example\nadvertise-address: 10.0.0.1\n")
    parser = argparse.ArgumentParser()
    add_options(parser, ServerOptions)
    flags = given(ServerOptions, parser.parse_args(["--port", "7001", "--tls-san", "b.example,c.example"]))
    options = ServerOptions(**{**read_file(ServerOptions, file), **flags})
    assert (options.port, options.tls_san, options.advertise_address) == (7001, ("b.example", "c.example"), "10.0.0.1")
    assert options.store == ServerOptions().store


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    values = {"server": ("https://a:6443", "https://b:6443"), "token": "x", "max_pods": 20}
    (tmp_path / "agent.yaml").write_text(to_file(values))
    assert read_file(AgentOptions, tmp_path / "agent.yaml") == values
    assert read_file(AgentOptions, tmp_path / "missing.yaml") == {}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("prot: 1", "there is no option 'prot'"),
        ("port: x", "port has to be a whole number, not 'x'"),
        ("port: true", "port has to be a whole number"),
        ("tls-san: [1]", "tls-san has to be a text or a list of texts"),
        ("- port", "write 'option: value' lines"),
        ("port: [", "not valid YAML"),
    ],
)
def test_a_mistake_in_the_file_is_told_in_one_line(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "server.yaml").write_text(text)
    with pytest.raises(UserError, match=why) as raised:
        read_file(ServerOptions, tmp_path / "server.yaml")
    assert "\n" not in str(raised.value)
    assert "server.yaml" in str(raised.value)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"cluster_cidr": "10.96.0.0/12"}, "overlap"),
        ({"service_cidr": "10.96.0.0/29"}, "too small"),
        ({"service_cidr": "fd00::/108"}, "the same IP families, in the same order"),
        ({"cluster_cidr": DUAL_PODS, "service_cidr": "fd00::/108,10.96.0.0/16"}, "in the same order"),
        ({"cluster_cidr": "10.1.0.0/16,10.2.0.0/16"}, "both are of IPv4"),
        ({"cluster_cidr": "10.1.0.0/16,"}, "one, or one of each IP family"),
        ({"cluster_cidr": "10.1.0.1/16"}, "has host bits set"),
        (
            {"cluster_cidr": DUAL_PODS, "service_cidr": DUAL_SERVICES, "node_cidr_mask_ipv6": 56},
            "mask-ipv6 56 does not",
        ),
        ({"cluster_cidr": DUAL_PODS, "service_cidr": DUAL_SERVICES, "node_cidr_mask_ipv6": 80}, "at most 72"),
        ({"cluster_cidr": "fd00:1::/56", "service_cidr": "fd00:2::/125"}, "at least a /124"),
        ({"cluster_cidr": "fd00:1::/56", "service_cidr": "fd00:1::/108"}, "overlap"),
        ({"advertise_address": "fd00:9::1"}, "the first range of --service-cidr is of IPv4"),
        ({"bind_address": ("somewhere",)}, "--bind-address somewhere: that is no IP address"),
        ({"node_cidr_mask": 16}, "does not fit"),
        ({"cluster_dns": "10.0.0.10"}, "is not in --service-cidr"),
        ({"advertise_address": "10.244.0.1"}, "in the range of the pods"),
        ({"port": 0}, "between 1 and 65535"),
        ({"etcd_peer_port": 2379}, "--etcd-port 2379: --etcd-peer-port has the same"),
        ({"metrics_port": 65534}, "between 1 and 65533"),
        ({"etcd_quota_bytes": -1}, "at least"),
        ({"default_toleration_seconds": -1}, "at least 0"),
        ({"tls_san": ("not a name",)}, "neither a name nor an address"),
        ({"cluster_domain": "not a domain"}, "--cluster-domain not a domain"),
        ({"store": "mysql"}, "sqlite or etcd"),
        ({"store": "sqlite", "join": "https://a:1", "token": "t"}, "one control plane alone"),
        ({"join": "https://a:1"}, "--join needs --token"),
        ({"etcd_cafile": "/ca"}, "go together"),
    ],
)
def test_options_that_cannot_work_are_refused(change: dict[str, object], why: str) -> None:
    with pytest.raises(UserError, match=why):
        check_server(replace(ServerOptions(), **change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"server": ()},
        {"server": ("ftp://a",)},
        {"server": ("https://a:b",)},
        {"node_label": ("x",)},
        {"node_ip": "10.0.0.1,10.0.0.2"},
        {"node_ip": "here"},
        {"node_ip": "127.0.0.1"},
        {"node_ip": "10.0.0.2,fe80::1"},
        {"node_name": "Bad_Name"},
        {"node_label": ("a b=c",)},
        {"node_label": ("a=b c",)},
        {"port": 0},
        {"port": 6444},
        {"network_backend": "ipip"},
        {"network_shortcuts": "maybe"},
        {"cgroup_root": "pyk"},
        {"max_pods": 1021},
        {"system_reserved": "cpu"},
        {"system_reserved": "cpu=lots"},
        {"system_reserved": "memory=-1Mi"},
    ],
)
def test_agents_options_that_cannot_work_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(UserError):
        check_agent(replace(AgentOptions(server=("https://10.0.0.1:6443",)), **change))  # type: ignore[arg-type]


def test_what_the_cluster_was_made_with_stays(tmp_path: Path) -> None:
    options = ServerOptions(
        data_dir=str(tmp_path / "server"),
        kubeconfig=str(tmp_path / "admin"),
        advertise_address="10.0.0.1",
        service_cidr="10.50.0.0/16",
    )
    plane = controlplane.resolve(options)
    Path(options.data_dir).mkdir()
    controlplane.write_files(plane, RealClock())
    again = controlplane.resolve(replace(options, service_cidr=ServerOptions().service_cidr))
    assert again.options.service_cidr == "10.50.0.0/16"
    with pytest.raises(UserError, match="cannot change any more"):
        controlplane.resolve(replace(options, service_cidr="10.60.0.0/16"))
    with pytest.raises(UserError, match="cannot change any more"):
        controlplane.resolve(replace(options, store="etcd"))


def test_a_control_plane_of_both_families_has_one_of_everything_for_each(tmp_path: Path) -> None:
    options = ServerOptions(
        data_dir=str(tmp_path / "server"),
        kubeconfig=str(tmp_path / "admin"),
        advertise_address="10.0.0.1",
        cluster_cidr=DUAL_PODS,
        service_cidr=DUAL_SERVICES,
    )
    check_server(options)
    plane = controlplane.resolve(options)
    assert plane.cluster_dns == "10.96.0.10,fd00:2::a"
    assert plane.bind_addresses == ("0.0.0.0", "::")
    assert {"10.96.0.1", "fd00:2::1"} <= set(controlplane.server_names(plane))
    assert plane.settings()["node-cidr-mask-ipv6"] == "64"


def test_a_record_of_before_both_families_is_read(tmp_path: Path) -> None:
    """Upgraded in place, a control plane finds the record of the version before."""
    decided = {"cluster_cidr": "10.1.0.0/16", "service_cidr": "10.2.0.0/16", "node_cidr_mask": 24}
    record = {**decided, "cluster_domain": "cluster.local", "store": "sqlite", "member": ""}
    (tmp_path / controlplane.RECORD).write_text(json.dumps(record))
    plane = controlplane.resolve(ServerOptions(data_dir=str(tmp_path), advertise_address="10.0.0.1"))
    assert (plane.options.cluster_cidr, plane.options.node_cidr_mask_ipv6) == ("10.1.0.0/16", 64)


def test_a_second_install_that_the_cluster_cannot_follow_changes_no_file(tmp_path: Path) -> None:
    """The unit would refuse to start with it: it is refused before anything is written."""
    data = tmp_path / "var/lib/pyk/server"
    data.mkdir(parents=True)
    plane = controlplane.resolve(ServerOptions(data_dir=str(data), advertise_address="10.0.0.1"))
    (data / controlplane.RECORD).write_text(json.dumps(controlplane.record_document(plane.record)))
    install.plan("server", {"port": 7000}, tmp_path, "/usr/bin/pyk")
    with pytest.raises(UserError, match="which cannot change any more"):
        install.plan("server", {"service_cidr": "10.50.0.0/16"}, tmp_path, "/usr/bin/pyk")


def test_the_backends_that_an_agent_may_be_told_are_those_that_there_are() -> None:
    assert NETWORK_BACKENDS == BACKENDS


@pytest.mark.parametrize("agent", ["v1.36.0+pyk0.1.0", "v1.36.7+pyk0.1.9", "v1.33.0+pyk0.1.0", "v1.35.2+pyk0.0.3"])
def test_an_agent_may_be_as_old_as_kubernetes_allows(agent: str) -> None:
    check_versions(agent, "v1.36.0+pyk0.1.0")


@pytest.mark.parametrize(
    ("agent", "why"),
    [
        ("v1.37.0+pyk0.1.0", "newer than its server"),
        ("v1.36.0+pyk0.2.0", "newer than its server"),
        ("v1.32.0+pyk0.1.0", "older than its server"),
        ("v1.36.0", "none of pyk"),
    ],
)
def test_versions_that_do_not_go_together_are_told(agent: str, why: str) -> None:
    with pytest.raises(VersionSkew, match=why):
        check_versions(agent, "v1.36.0+pyk0.1.0")
