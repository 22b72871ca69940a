from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from controlplane.store import open_store
from controlplane.store.sqlite import SqliteStore
from pyk.reconcile.clock import RealClock


def test_an_engine_is_chosen_by_name(tmp_path: Path) -> None:
    assert isinstance(open_store("sqlite", path=tmp_path / "x.db", clock=RealClock()), SqliteStore)


@pytest.mark.parametrize(
    ("engine", "message"), [("sqlite", "path"), ("etcd", "endpoint"), ("postgres", "choose sqlite or etcd")]
)
def test_what_is_missing_is_said(engine: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_store(engine, clock=RealClock())


def test_a_sqlite_store_loads_no_grpc() -> None:
    program = (
        "import sys; from controlplane.store import open_store; from pyk.reconcile.clock import RealClock;"
        "open_store('sqlite', path='x', clock=RealClock()); sys.exit('grpc' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
