"""Finding the pod that a person means: by name, or as one of a workload's."""

from __future__ import annotations

from pyk.api import selectors
from pyk.api.kinds import POD
from pyk.api.objects import Object, is_condition_true, is_deleting, name_of
from pyk.cli.session import Session, find_kind
from pyk.errors import UserError


def find_pods(session: Session, word: str) -> list[Object]:
    """The pod `web` or `pod/web`, or those of `deployment/web`, the best to look at first. Raises `UserError`."""
    kind_word, slash, name = word.rpartition("/")
    kind = find_kind(kind_word) if slash else POD
    if kind is POD:
        return [session.client.get(POD, name, session.namespace)]
    owner = session.client.get(kind, name, session.namespace)
    selector = selectors.from_document((owner.get("spec") or {}).get("selector"))
    if not selector:
        raise UserError(f"{word} has no pods: name a pod, deployment or replicaset")
    listed = session.client.list(POD, session.namespace, label_selector=selectors.format_selector(selector))
    pods: list[Object] = listed.get("items") or []
    if not pods:
        raise UserError(f"{word} has no pods at present")
    return sorted(pods, key=lambda pod: (is_deleting(pod), not is_condition_true(pod, "Ready"), name_of(pod)))


def container_names(pod: Object) -> list[str]:
    """Init containers first, as they ran."""
    spec = pod["spec"]
    return [c["name"] for c in (spec.get("initContainers") or []) + (spec.get("containers") or [])]


def default_container(pod: Object) -> str:
    """The container that is meant when none is named: the annotated one, or the first."""
    named = (pod["metadata"].get("annotations") or {}).get("kubectl.kubernetes.io/default-container")
    return str(named or pod["spec"]["containers"][0]["name"])
