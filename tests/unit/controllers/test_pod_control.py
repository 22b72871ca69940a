"""Pods that a loop makes, when the server answers with an error although it has written."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.controllers.podcontrol import PodControl
from pyk.api.kinds import POD
from pyk.api.objects import Object, key_of, name_of
from pyk.api.status import ApiError
from pyk.client.informer import Informer
from pyk.reconcile.clock import VirtualClock
from tests.unit.controllers.documents import replica_set


class Server:
    """Keeps every pod that it is sent; `answers` are the errors that it tells instead of it, one by one."""

    def __init__(self, *answers: int) -> None:
        self.pods: dict[str, Object] = {}
        self.answers = list(answers)

    async def create(self, _: Any, pod: Object) -> Object:
        metadata = {**pod["metadata"], "namespace": "default", "uid": f"uid-{len(self.pods)}", "resourceVersion": "1"}
        stored = {**pod, "metadata": metadata}
        code = self.answers.pop(0) if self.answers else 201
        if key_of(stored) in self.pods:
            raise ApiError(409, "AlreadyExists", "there already")
        if code != 403:
            self.pods[key_of(stored)] = stored
        if code != 201:
            raise ApiError(code, "Forbidden" if code == 403 else "InternalError", "no")
        return stored

    async def get(self, _: Any, name: str, namespace: str) -> Object:
        return self.pods[f"{namespace}/{name}"]


class Silent:
    def event(self, *_: Any) -> None: ...


@pytest.mark.parametrize("code", [500, 504])
async def test_an_error_after_the_write_makes_no_pod_twice(code: int) -> None:
    server, clock, owner = Server(code), VirtualClock(), replica_set("web")
    control = PodControl(server, Silent(), clock, Informer(server, POD, clock=clock))  # type: ignore[arg-type]
    wanted: Object = {"kind": "Pod", "metadata": {"generateName": "web-", "namespace": "default"}, "spec": {}}
    wanted["metadata"]["ownerReferences"] = [{"controller": True, "uid": owner["metadata"]["uid"]}]
    assert await control.create("default/web", owner, [wanted]) is not None
    assert await control.create("default/web", owner, [wanted]) is None
    assert len(server.pods) == 1


async def test_a_refused_name_is_not_tried_again() -> None:
    server, clock, owner = Server(403), VirtualClock(), replica_set("web")
    control = PodControl(server, Silent(), clock, Informer(server, POD, clock=clock))  # type: ignore[arg-type]
    wanted: Object = {"kind": "Pod", "metadata": {"generateName": "web-", "namespace": "default"}, "spec": {}}
    first = control._suffix
    used: list[str] = []
    control._suffix = lambda: used.append(first()) or used[-1]  # type: ignore[method-assign, func-returns-value]
    assert await control.create("default/web", owner, [wanted]) is not None
    assert await control.create("default/web", owner, [wanted]) is None
    (made,) = server.pods.values()
    assert name_of(made) == f"web-{used[1]}"
