"""Which pods get a token of their account mounted, and where."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.apiserver.admission_automount import MOUNT_PATH, mount_token, wants_token


@pytest.mark.parametrize(
    ("pod", "account", "wanted"),
    [
        (None, None, True),
        (None, False, False),
        (True, False, True),
        (False, True, False),
        (False, None, False),
        (None, True, True),
    ],
)
def test_the_pod_decides_before_its_account(pod: bool | None, account: bool | None, wanted: bool) -> None:
    field = "automountServiceAccountToken"
    spec = {} if pod is None else {field: pod}
    assert wants_token(spec, {} if account is None else {field: account}) is wanted


def made(*containers: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"uid": "u"}, "spec": {"containers": list(containers)}}


def test_every_container_finds_token_certificate_and_namespace() -> None:
    pod = made({"name": "a"}, {"name": "b", "volumeMounts": [{"name": "x", "mountPath": "/x"}]})
    pod["spec"]["initContainers"] = [{"name": "i"}]
    mount_token(pod)
    (volume,) = pod["spec"]["volumes"]
    assert volume["name"].startswith("kube-api-access-")
    assert len(volume["name"]) == len("kube-api-access-") + 5
    assert [next(iter(source)) for source in volume["projected"]["sources"]] == [
        "serviceAccountToken",
        "configMap",
        "downwardAPI",
    ]
    mount = {"name": volume["name"], "mountPath": MOUNT_PATH, "readOnly": True}
    assert pod["spec"]["initContainers"][0]["volumeMounts"] == [mount]
    assert pod["spec"]["containers"][0]["volumeMounts"] == [mount]
    assert pod["spec"]["containers"][1]["volumeMounts"] == [{"name": "x", "mountPath": "/x"}, mount]


def test_what_a_container_mounts_there_itself_stays() -> None:
    pod = made({"name": "a", "volumeMounts": [{"name": "own", "mountPath": MOUNT_PATH}]})
    mount_token(pod)
    assert "volumes" not in pod["spec"]
