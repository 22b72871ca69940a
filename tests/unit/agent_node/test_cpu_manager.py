"""The cpu manager: who gets processors of its own, which, and what is remembered of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cpus.assign import NotEnoughCpus, exclusive_cpus, reserve, take
from agent.cpus.manager import BadState, CpuManager
from agent.cpus.topology import Place, format_cpus, parse_cpus, read_topology
from pyk.api.objects import Object

# Two sockets of two cores of two threads: 0 and 4 are one core, as on Intel machines.
TOPOLOGY = {cpu: Place(cpu % 4 // 2, cpu % 4) for cpu in range(8)}


@given(st.frozensets(st.integers(0, 200)))
def test_a_set_is_the_same_when_it_is_read_again(cpus: frozenset[int]) -> None:
    assert parse_cpus(format_cpus(cpus)) == cpus


def test_sets_are_written_as_the_kernel_writes_them() -> None:
    assert format_cpus({0, 1, 2, 5, 7, 8}) == "0-2,5,7-8"
    assert parse_cpus("0-2,5\n") == {0, 1, 2, 5}


@pytest.mark.parametrize(
    ("available", "count", "expected"),
    [
        pytest.param("0-7", 4, "0-1,4-5", id="a whole socket"),
        pytest.param("0-7", 2, "0,4", id="a whole core"),
        pytest.param("0-7", 1, "0", id="a thread"),
        pytest.param("1-7", 1, "4", id="a thread of a core that is in use"),
        pytest.param("1-7", 2, "1,5", id="a whole core rather than two halves"),
        pytest.param("1,6-7", 2, "1,6", id="no whole core: where the fewest are left"),
        pytest.param("1,5-7", 3, "1,5-6", id="a core, and what is near it"),
        pytest.param("0-7", 6, "0-2,4-6", id="a socket and a core"),
        pytest.param("0-7", 0, "", id="none"),
    ],
)
def test_whole_sockets_and_cores_are_taken_first(available: str, count: int, expected: str) -> None:
    assert format_cpus(take(TOPOLOGY, parse_cpus(available), count)) == expected


def test_more_than_there_are_cannot_be_taken() -> None:
    with pytest.raises(NotEnoughCpus, match="requested=3, available=2"):
        take(TOPOLOGY, {0, 1}, 3)


def pod(uid: str, *cpus: str, inits: tuple[str, ...] = (), memory: str = "1Mi", limit: str = "") -> Object:
    def container(name: str, cpu: str) -> dict[str, Any]:
        requests = {"cpu": cpu, "memory": memory}
        return {"name": name, "resources": {"requests": requests, "limits": {"cpu": limit or cpu, "memory": memory}}}

    spec = {
        "containers": [container(f"c{index}", cpu) for index, cpu in enumerate(cpus)],
        "initContainers": [container(f"i{index}", cpu) for index, cpu in enumerate(inits)],
    }
    return {"metadata": {"uid": uid, "name": uid, "namespace": "n"}, "spec": spec}


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        (pod("u", "2"), 2),
        (pod("u", "2000m"), 2),
        (pod("u", "1500m"), 0),
        (pod("u", "2", limit="3"), 0),
        ({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "2"}}}]}, "metadata": {}}, 0),
    ],
)
def test_only_whole_processors_of_guaranteed_pods_are_exclusive(of: Object, expected: int) -> None:
    assert exclusive_cpus(of, of["spec"]["containers"][0]) == expected


def opened(folder: Path, policy: str = "static", named: str = "", millicores: int = 1000) -> CpuManager:
    return CpuManager.open(folder, policy, TOPOLOGY, parse_cpus(named), millicores)


def test_the_shared_pool_shrinks_and_grows_and_keeps_what_is_reserved(tmp_path: Path) -> None:
    manager, changes = opened(tmp_path), []
    manager.changed = lambda: changes.append(format_cpus(manager.shared))
    manager.allocate(pod("a", "2", "500m"))
    assert manager.cpus_of("a", "c0") == "1,5"
    assert manager.cpus_of("a", "c1") == manager.cpus_of("other", "c") == "0,2-4,6-7"
    manager.allocate(pod("a", "2", "500m"))  # asked again, it is the same
    with pytest.raises(NotEnoughCpus, match="requested=6, available=5"):
        manager.allocate(pod("b", "6"))
    manager.release("a")
    assert changes == ["0,2-4,6-7", "0-7"]
    manager.allocate(pod("b", "7"))
    assert format_cpus(manager.shared) == "0"


def test_init_containers_lend_their_processors_to_those_that_come_after(tmp_path: Path) -> None:
    manager = opened(tmp_path, named="0,4")
    manager.allocate(pod("a", "4", inits=("6",)))
    own = parse_cpus(manager.cpus_of("a", "c0"))
    assert len(own) == 4
    assert own < parse_cpus(manager.cpus_of("a", "i0"))
    assert format_cpus(manager.shared) == "0,4"


def test_the_state_survives_the_agent(tmp_path: Path) -> None:
    before = opened(tmp_path)
    before.allocate(pod("a", "2"))
    before.allocate(pod("b", "1"))
    assert json.loads((tmp_path / "cpu_manager_state").read_text())["entries"]["a"] == {"c0": "1,5"}
    after = opened(tmp_path)
    assert [after.cpus_of(uid, "c0") for uid in "ab"] == [before.cpus_of(uid, "c0") for uid in "ab"]
    after.keep_only(["b"])
    assert opened(tmp_path).cpus_of("a", "c0") == format_cpus(after.shared)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"policyName": "static", "entries": {"u": {"c": "x"}}}'])
def test_a_state_that_cannot_be_read_is_not_guessed_at(tmp_path: Path, content: str) -> None:
    (tmp_path / "cpu_manager_state").write_text(content)
    with pytest.raises(BadState, match="drain the node, remove"):
        opened(tmp_path)


def test_a_state_of_another_policy_or_machine_is_refused(tmp_path: Path) -> None:
    opened(tmp_path).allocate(pod("a", "2"))
    with pytest.raises(BadState, match='is of the cpu manager policy "static", not of "none"'):
        opened(tmp_path, "none")
    state = {"policyName": "static", "entries": {"a": {"c0": "9"}}}
    (tmp_path / "cpu_manager_state").write_text(json.dumps(state))
    with pytest.raises(BadState, match="names cpu 9"):
        opened(tmp_path)


def test_without_the_policy_nobody_is_confined(tmp_path: Path) -> None:
    manager = opened(tmp_path, "none")
    manager.allocate(pod("a", "2"))
    assert manager.cpus_of("a", "c0") == ""


def test_the_static_policy_wants_something_reserved() -> None:
    assert reserve(TOPOLOGY, {1, 3}, 0) == {1, 3}
    assert reserve(TOPOLOGY, (), 1500) == {0, 4}
    with pytest.raises(ValueError, match="greater than zero"):
        reserve(TOPOLOGY, (), 0)
    with pytest.raises(ValueError, match="no cpu 9"):
        reserve(TOPOLOGY, {9}, 0)


def test_the_topology_is_read_from_the_kernel(tmp_path: Path) -> None:
    for cpu, (socket, core) in enumerate([(0, 0), (0, 0), (1, 0)]):
        directory = tmp_path / f"cpu{cpu}" / "topology"
        directory.mkdir(parents=True)
        (directory / "physical_package_id").write_text(f"{socket}\n")
        (directory / "core_id").write_text(f"{core}\n")
    found = read_topology([0, 1, 2], tmp_path)
    assert found[0] == found[1] != found[2]
    assert read_topology([7], tmp_path) == {7: Place(0, 7)}
