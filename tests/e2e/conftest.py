"""One cluster for all end-to-end tests: three nodes with real containers, its own name, port and folders.

It is made once and taken down at the end, also after failures; each test works in a namespace of its own. Its store
is SQLite, or what `PYK_TEST_STORE` says (`PYK_TEST_STORE=etcd make e2e`). `PYK_TEST_LOGS` is a folder that keeps the
components' logs.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Cluster, make_cluster
from tests.patience import PATIENCE, patient


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    usual = float(config.getini("timeout"))
    for item in items:
        if Path(item.path).is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.e2e)
            if PATIENCE != 1:
                own = item.get_closest_marker("timeout")
                limit = float(own.args[0]) if own else usual
                item.add_marker(pytest.mark.timeout(patient(limit)), append=False)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster that most tests share."""
    folder = Path(tempfile.mkdtemp(prefix="pyk-e2e-"))
    made = make_cluster(folder)
    try:
        made.up("--nodes", "3", "--store", os.environ.get("PYK_TEST_STORE", "sqlite"))
        yield made
    finally:
        logs = made.data_dir / "logs"
        if logs.is_dir() and os.environ.get("PYK_TEST_LOGS"):
            shutil.copytree(logs, os.environ["PYK_TEST_LOGS"], dirs_exist_ok=True)
        made.down()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace of the test's own, deleted with all that is in it."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")
