"""More of the official Python client against a real cluster: dynamic client, YAML files, leader election, watches."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from kubernetes import client, config, dynamic, utils, watch
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock

from tests.e2e.harness import Cluster, deployment_document, wait_for


@pytest.fixture
def api(cluster: Cluster) -> Iterator[client.ApiClient]:
    loaded = client.Configuration()
    config.load_kube_config(str(cluster.kubeconfig), client_configuration=loaded)
    with client.ApiClient(loaded) as made:
        yield made


def test_the_dynamic_client_works_by_discovery(api: client.ApiClient, namespace: str) -> None:
    found = dynamic.DynamicClient(api)
    configs = found.resources.get(api_version="v1", kind="ConfigMap")
    made = configs.create({"metadata": {"name": "a", "labels": {"x": "y"}}, "data": {"k": "1"}}, namespace=namespace)
    assert made.metadata.uid
    patched = configs.patch(
        {"metadata": {"name": "a"}, "data": {"l": "2"}},
        namespace=namespace,
        content_type="application/merge-patch+json",
    )
    assert patched.data.to_dict() == {"k": "1", "l": "2"}
    assert [each.metadata.name for each in configs.get(namespace=namespace, label_selector="x=y").items] == ["a"]
    replaced = configs.replace({**patched.to_dict(), "data": {"m": "3"}}, namespace=namespace)
    assert replaced.data.to_dict() == {"m": "3"}
    for event in configs.watch(namespace=namespace, timeout=30):
        assert (event["type"], event["object"].metadata.name) == ("ADDED", "a")
        break
    deployments = found.resources.get(api_version="apps/v1", kind="Deployment")
    deployments.create(deployment_document("web", 1), namespace=namespace)
    deployments.scale.patch(
        name="web",
        namespace=namespace,
        body={"spec": {"replicas": 2}},
        content_type="application/merge-patch+json",
    )
    wait_for("2", lambda: deployments.get(name="web", namespace=namespace).status.readyReplicas == 2)
    configs.delete(name="a", namespace=namespace)
    with pytest.raises(dynamic.exceptions.NotFoundError):
        configs.get(name="a", namespace=namespace)


def test_files_are_created_whole(api: client.ApiClient, namespace: str, tmp_path: Path) -> None:
    documents = [
        deployment_document("web", 1),
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"k": "v"}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hidden"}, "stringData": {"k": "v"}},
    ]
    path = tmp_path / "app.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    utils.create_from_yaml(api, str(path), namespace=namespace)
    core = client.CoreV1Api(api)
    assert core.read_namespaced_config_map("settings", namespace).data == {"k": "v"}
    assert core.read_namespaced_secret("hidden", namespace).data == {"k": "dg=="}
    with pytest.raises(utils.FailToCreateError) as again:
        utils.create_from_yaml(api, str(path), namespace=namespace)
    assert {failure.reason for failure in again.value.api_exceptions} == {"Conflict"}


def test_a_watch_goes_on_where_another_ended(api: client.ApiClient, namespace: str) -> None:
    core = client.CoreV1Api(api)
    body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="a"), data={"n": "0"})
    core.create_namespaced_config_map(namespace, body)
    seen, version = [], None
    for step in range(4):
        watcher = watch.Watch()
        for event in watcher.stream(
            core.list_namespaced_config_map,
            namespace,
            field_selector="metadata.name=a",
            resource_version=version,
            timeout_seconds=30,
        ):
            seen.append((event["type"], event["object"].data["n"]))
            version = event["object"].metadata.resource_version
            break
        core.patch_namespaced_config_map("a", namespace, {"data": {"n": str(step + 1)}})
    assert seen == [("ADDED", "0"), ("MODIFIED", "1"), ("MODIFIED", "2"), ("MODIFIED", "3")]


class _LosableLock(LeaseLock):  # type: ignore[misc]
    """A lease that cannot be renewed any more once `lose` is set, which ends its holder's loop."""

    lose = threading.Event()

    def update(self, *arguments: object) -> bool:
        return not self.lose.is_set() and bool(super().update(*arguments))


def test_leader_election_has_one_leader(api: client.ApiClient, cluster: Cluster, namespace: str) -> None:
    config.load_kube_config(str(cluster.kubeconfig))
    leads, stopped = threading.Event(), threading.Event()
    lock = _LosableLock("election", namespace, "first")
    first = leaderelection.LeaderElection(
        electionconfig.Config(
            lock,
            lease_duration=5,
            renew_deadline=3,
            retry_period=1,
            onstarted_leading=leads.set,
            onstopped_leading=stopped.set,
        )
    )
    leader = threading.Thread(target=first.run, daemon=True)
    leader.start()
    assert leads.wait(30)
    lease = client.CoordinationV1Api(api).read_namespaced_lease("election", namespace)
    assert lease.spec.holder_identity == "first"
    second = leaderelection.LeaderElection(
        electionconfig.Config(
            LeaseLock("election", namespace, "second"),
            lease_duration=5,
            renew_deadline=3,
            retry_period=1,
            onstarted_leading=leads.clear,
            onstopped_leading=None,
        )
    )
    assert second.try_acquire_or_renew() is False
    lock.lose.set()
    leader.join(30)
    assert stopped.is_set()
    wait_for("the second to lead", second.try_acquire_or_renew)
    lease = client.CoordinationV1Api(api).read_namespaced_lease("election", namespace)
    assert lease.spec.holder_identity == "second"
