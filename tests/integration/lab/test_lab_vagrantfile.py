"""vagrant/Vagrantfile: Vagrant itself finds it valid, and each provider is told the same by it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

VAGRANT = Path(__file__).parents[3] / "vagrant"
# Runs the Vagrantfile with objects that write down what they are told, and prints that as JSON.
RECORDER = r"""
require "json"
class Told
  def initialize(told, only) = (@told, @only = told, only)
  def respond_to?(*) = true
  def vm = self
  def trigger = self
  def vmx = (@told["vmx"] ||= {})
  def define(name) = yield(Told.new(@told["machines"][name] = {}, @only))
  def provider(name) = (yield self, self if name.to_s == @only)
  def method_missing(name, *given, **named, &block)
    key = name.to_s.delete_suffix("=")
    return @told[key] = given[0] if name.end_with?("=")
    (@told[key] ||= []) << [given, named]
  end
end
module Vagrant
  def self.require_version(*) = nil
  def self.configure(_) = yield(Told.new($told = { "machines" => {} }, ARGV[1]))
end
load ARGV[0]
puts JSON.generate($told)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy: the Vagrantfile keeps its state beside itself."""
    if shutil.which("vagrant") is None:
        pytest.fail("vagrant is not installed: run tests/debian-packages")
    return Path(shutil.copytree(VAGRANT, tmp_path / "vagrant", ignore=shutil.ignore_patterns(".vagrant", ".pyk")))


def environment(folder: Path, **variables: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYK_", "VAGRANT_"))}
    places = {"VAGRANT_HOME": f"{folder.parent}/home", "VAGRANT_DOTFILE_PATH": f"{folder.parent}/dot"}
    return kept | places | {"VAGRANT_CHECKPOINT_DISABLE": "1", "VAGRANT_DEFAULT_PROVIDER": "libvirt"} | variables


def validate(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    command = ["vagrant", "validate"]
    return subprocess.run(
        command, cwd=folder, env=environment(folder, **variables), capture_output=True, text=True, check=False
    )


def told(folder: Path, provider: str, **variables: str) -> Any:
    command = ["ruby", "-e", RECORDER, str(folder / "Vagrantfile"), provider]
    done = subprocess.run(
        command, env=environment(folder, **variables), capture_output=True, text=True, check=False, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_vagrant_finds_it_valid(folder: Path) -> None:
    for variables in ({}, {"PYK_CONTROL_PLANES": "3", "PYK_WORKERS": "9"}):
        done = validate(folder, **variables)
        assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / ".pyk").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("PYK_WORKERS", "many", 'PYK_WORKERS is "many": it has to be a number from 1 to 9'),
        ("PYK_CONTROL_PLANES", "2", "etcd needs an odd number"),
        ("PYK_SUBNET", "10.0", "it has to be like 192.168.56"),
        ("PYK_ARCH", "riscv", "it has to be amd64 or arm64"),
    ],
)
def test_a_bad_setting_is_refused_in_one_line(folder: Path, variable: str, value: str, says: str) -> None:
    command = ["ruby", "-e", RECORDER, str(folder / "Vagrantfile"), "libvirt"]
    done = subprocess.run(
        command, env=environment(folder, **{variable: value}), capture_output=True, text=True, check=False, cwd=folder
    )
    assert done.returncode == 1
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("provider", ["libvirt", "virtualbox", "vmware_desktop", "qemu"])
def test_every_provider_makes_the_same_cluster(folder: Path, provider: str) -> None:
    settings = {"PYK_CONTROL_PLANES": "3", "PYK_MEMORY": "2048", "PYK_CPUS": "4", "PYK_ARCH": "arm64"}
    machines = told(folder, provider, **settings)["machines"]
    assert list(machines) == ["server-1", "server-2", "server-3", "worker-1", "worker-2"]
    for name, count in (("server-2", 12), ("worker-1", 21)):
        machine = machines[name]
        memory, cpus = {
            "vmware_desktop": lambda m: (m["vmx"]["memsize"], m["vmx"]["numvcpus"]),
            "qemu": lambda m: (m["memory"].removesuffix("M"), m["smp"]),
        }.get(provider, lambda m: (str(m["memory"]), str(m["cpus"])))(machine)
        assert (memory, cpus) == ("1024" if name == "server-2" else "2048", "4")
        assert [["private_network"], {"ip": f"192.168.56.{count}"}] in machine["network"]
        joins = [each for each in machine["provision"] if each[0] == ["pyk"]]
        kind = name.partition("-")[0].replace("worker", "agent")
        assert joins[0][1]["args"] == [kind, f"192.168.56.{count}", "192.168.56.11", "3"]


def test_qemu_s_machines_share_a_cable_and_lead_the_api_to_a_port(folder: Path) -> None:
    machines = told(folder, "qemu", PYK_ARCH="arm64")["machines"]
    first, worker = machines["server-1"], machines["worker-1"]
    assert [["forwarded_port"], {"guest": 6443, "host": 56443, "host_ip": "127.0.0.1"}] in first["network"]
    assert all(each[0] != ["forwarded_port"] for each in worker["network"])
    cables = [machine["extra_qemu_args"][1] for machine in machines.values()]
    assert len(set(cables)) == 1
    assert len({machine["extra_qemu_args"][3] for machine in machines.values()}) == 3
    assert len({machine["ssh_port"] for machine in machines.values()}) == 3
