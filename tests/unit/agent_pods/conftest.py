"""Pods and observations for the decision's tests: short builders, all times in plain seconds."""

from __future__ import annotations

from typing import Any

import pytest

from agent.pods.observed import ContainerView, Observed, SandboxView
from agent.runtime.contract import Phase
from pyk.api.objects import Object

UID = "00000000-0000-0000-0000-000000000001"


def make_pod(*names: str, inits: tuple[Any, ...] = (), status: Any = None, metadata: Any = None, **spec: Any) -> Object:
    def container(name: Any) -> Any:
        return {"name": name, "image": "i"} if isinstance(name, str) else {"image": "i", **name}

    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "ns", "uid": UID, "generation": 1, **(metadata or {})},
        "spec": {
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 30,
            "containers": [container(name) for name in names or ("c",)],
            **({"initContainers": [container(name) for name in inits]} if inits else {}),
            **spec,
        },
        "status": status or {},
    }


def make_view(
    name: str = "c", phase: str = "running", *, attempt: int = 0, exit_code: int = 0, at: float = 0.0, **more: Any
) -> ContainerView:
    """`at` is when it started, or, for one that has ended, when it ended."""
    ended = phase == "exited"
    times = {
        "created_at": at,
        "started_at": 0.0 if phase == "created" else at,
        "finished_at": at if ended else 0.0,
        "reason": ("Completed" if exit_code == 0 else "Error") if ended else "",
    }
    return ContainerView(name, attempt, f"id-{name}-{attempt}", Phase(phase), exit_code=exit_code, **{**times, **more})


def make_observed(*views: ContainerView, **more: Any) -> Observed:
    """A pod whose sandbox, network, volumes and images are there, with these containers."""
    ready: dict[str, Any] = {
        "sandbox": SandboxView(True),
        "is_attached": True,
        "addresses": ("10.0.0.1",),
        "volumes_ready": True,
        "images": frozenset(("c", "a", "b", "init", "side")),
        "has_remains": True,
        "containers": {view.name: view for view in views},
    }
    return Observed(**{**ready, **more})


@pytest.fixture
def pod() -> Any:
    return make_pod


@pytest.fixture
def view() -> Any:
    return make_view


@pytest.fixture
def observed() -> Any:
    return make_observed
