"""Pods: the rules of the kind, put together from its defaults, checks and columns."""

from __future__ import annotations

from collections.abc import Iterable

from pyk.api.kinds import Rules
from pyk.api.labelkeys import merge_label_keys
from pyk.api.objects import Object
from pyk.api.rules.pods_columns import COLUMNS
from pyk.api.rules.pods_defaults import default_pod
from pyk.api.rules.pods_parts import PARTS
from pyk.api.rules.pods_resources import qos_class
from pyk.api.rules.pods_update import check_pod_status, check_pod_update
from pyk.api.rules.pods_validation import check_pod
from pyk.api.status import FieldError


def _validate(pod: Object, old: Object | None) -> Iterable[FieldError]:
    return check_pod(pod) if old is None else check_pod_update(pod, old)


def _prepare(pod: Object, old: Object | None) -> None:
    if old is None:
        merge_label_keys(pod)
        pod["status"] = {"phase": "Pending", "qosClass": qos_class(pod.get("spec") or {})}


def _keep_qos_class(pod: Object, old: Object) -> None:
    """Who writes a pod's status may leave out what never changes."""
    qos = (old.get("status") or {}).get("qosClass")
    if qos and not (pod.get("status") or {}).get("qosClass"):
        pod["status"] = {**(pod.get("status") or {}), "qosClass": qos}


def _spec(field: str, pod: Object) -> str:
    return str((pod.get("spec") or {}).get(field) or "")


def _status(field: str, pod: Object) -> str:
    return str((pod.get("status") or {}).get(field) or "")


RULES = Rules(
    default=default_pod,
    validate=_validate,
    validate_status=check_pod_status,
    prepare=_prepare,
    prepare_status=_keep_qos_class,
    columns=COLUMNS,
    parts=PARTS,
    fields={
        "spec.nodeName": lambda pod: _spec("nodeName", pod),
        "spec.restartPolicy": lambda pod: _spec("restartPolicy", pod),
        "spec.schedulerName": lambda pod: _spec("schedulerName", pod),
        "spec.serviceAccountName": lambda pod: _spec("serviceAccountName", pod),
        "spec.hostNetwork": lambda pod: "true" if (pod.get("spec") or {}).get("hostNetwork") else "false",
        "status.phase": lambda pod: _status("phase", pod),
        "status.podIP": lambda pod: _status("podIP", pod),
        "status.nominatedNodeName": lambda pod: _status("nominatedNodeName", pod),
    },
)
