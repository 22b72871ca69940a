"""May this user do that: whoever is in `system:masters`, nodes within their limits, then what RBAC allows.

`decide` is asked before a request is served, `check_write` when the new object is known. A node
(`system:node:NAME` of the group `system:nodes`) may read its Node, its pods and what those refer to, report their
status and its own, renew its lease and record events. Source: the Kubernetes documentation on Node authorization and
on the NodeRestriction admission plugin.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from controlplane.apiserver.authentication import UserInfo
from controlplane.apiserver.escalation import MASTERS, check_grant
from controlplane.apiserver.nodepods import NodePods
from controlplane.apiserver.rbac import RoleBook, Rule, covers, covers_path
from pyk.api.kinds import LEASE, NODE, POD, Kind
from pyk.api.objects import Object, annotations_of, labels_of, name_of
from pyk.api.rules.pods_validation import MIRROR
from pyk.api.selectors import FieldRequirement
from pyk.api.status import forbidden

_NODE_PREFIX, _NODES_GROUP = "system:node:", "system:nodes"
_LEASE_NAMESPACE = "kube-node-lease"
_REFERENCED = {"secrets": "secret", "configmaps": "configMap"}
_CLAIM = "persistentVolumeClaim"
"""The resources that a node may read when one of its pods refers to them, and how volumes call them."""
_RESTRICTED_LABEL_DOMAIN = "node-restriction.kubernetes.io"
_OWN_LABELS = (
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
)
_OWN_LABEL_DOMAINS = ("kubelet.kubernetes.io", "node.kubernetes.io")


@dataclass(slots=True)  # not frozen: one is made for every request, and a frozen one takes six times as long
class Attributes:
    """What is asked for. For a URL that is no resource `resource` is empty and `verb` the HTTP method in lower case.

    `fields` are the field selector's conditions of a list or watch.
    """

    user: UserInfo
    verb: str
    group: str = ""
    version: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""
    fields: tuple[FieldRequirement, ...] = ()


def denial(attributes: Attributes, reason: str = "") -> str:
    """The sentence in which Kubernetes refuses."""
    user, verb = attributes.user.name, attributes.verb
    if not attributes.resource:
        text = f'User "{user}" cannot {verb} path "{attributes.path}"'
    else:
        resource = attributes.resource + (f"/{attributes.subresource}" if attributes.subresource else "")
        where = f'in the namespace "{attributes.namespace}"' if attributes.namespace else "at the cluster scope"
        text = f'User "{user}" cannot {verb} resource "{resource}" in API group "{attributes.group}" {where}'
    return f"{text}: {reason}" if reason else text


class Authorizer:
    """Decides by the roles in `book` and by what runs where."""

    def __init__(self, pods: NodePods, book: RoleBook) -> None:
        self._pods = pods
        self.book = book

    def decide(self, attributes: Attributes) -> str | None:
        """None when it is allowed; otherwise why not, as a sentence."""
        user, reason = attributes.user, ""
        if MASTERS in user.groups:
            return None
        if not attributes.resource:
            return None if self.book.allows_path(user, attributes.verb, attributes.path) else denial(attributes)
        if node := node_name(user):
            refusal = self._node_may_not(node, attributes)
            if refusal is None:
                return None
            reason = refusal
        asked = (attributes.verb, attributes.group, attributes.resource, attributes.subresource)
        if self.book.allows(user, *asked, attributes.namespace, attributes.name):
            return None
        return denial(attributes, reason)

    def reason(self, attributes: Attributes) -> str:
        """By what something is allowed that is: the binding, when it is one."""
        user, asked = attributes.user, attributes
        if MASTERS in user.groups:
            return ""

        def allows(rule: Rule) -> bool:
            if not asked.resource:
                return covers_path(rule, asked.verb, asked.path)
            return covers(rule, asked.verb, asked.group, asked.resource, asked.subresource, asked.name)

        return self.book.why_allowed(user, asked.namespace, allows)

    def _node_may_not(self, node: str, asked: Attributes) -> str | None:
        """Why a node may not; None when it may, an empty reason when nodes never may."""
        match (asked.group, asked.resource, asked.subresource):
            case ("", "nodes", "" | "status"):
                return self._own_node(node, asked)
            case ("", "pods", ""):
                return self._own_pods(node, asked)
            case ("", "pods", "status"):
                # Whose pod an update is for, `check_write` sees.
                return None if asked.verb in ("update", "patch") else self._own_pods(node, asked)
            case ("", "pods", "eviction"):
                return self._own_pods(node, replace(asked, verb="delete")) if asked.verb == "create" else ""
            case ("coordination.k8s.io", "leases", ""):
                if asked.namespace != _LEASE_NAMESPACE or asked.name not in ("", node):
                    return f"can only access node lease with the same name as the requesting node '{node}'"
                return None if asked.verb in ("get", "create", "update", "patch", "delete") else ""
            case ("" | "events.k8s.io", "events", ""):
                return None if asked.verb in ("create", "update", "patch") else ""
            case ("", "secrets" | "configmaps", ""):
                return self._referenced(node, asked)
            case ("", "persistentvolumeclaims", ""):
                return self._referenced(node, asked)
            case ("", "persistentvolumes", ""):
                return None if asked.verb == "get" else ""
            case ("", "serviceaccounts", "token"):
                return self._account_of_own_pod(node, asked) if asked.verb == "create" else ""
            case ("certificates.k8s.io", "certificatesigningrequests", ""):
                return None if asked.verb in ("create", "get", "list", "watch") else ""
            case ("authentication.k8s.io", "tokenreviews", "") | ("authorization.k8s.io", "subjectaccessreviews", ""):
                return None if asked.verb == "create" else ""  # who asks the node API, and whether they may
            case ("", "services" | "namespaces", "") | ("node.k8s.io", "runtimeclasses", ""):
                return None if asked.verb in ("get", "list", "watch") else ""
            case _:
                return ""

    @staticmethod
    def _own_node(node: str, asked: Attributes) -> str | None:
        if asked.verb == "create" and not asked.subresource:
            return None  # whose name it is, `check_write` sees
        if asked.verb not in ("get", "list", "watch", "update", "patch"):
            return ""
        if asked.name != node:
            return f"node '{node}' cannot access another node, only its own Node object"
        return None

    def _own_pods(self, node: str, asked: Attributes) -> str | None:
        if asked.verb in ("list", "watch"):
            own = any(each.field == "spec.nodeName" and each.equal and each.value == node for each in asked.fields)
            return None if own else "can only list/watch pods with spec.nodeName field selector"
        if asked.verb == "create":
            return None  # which ones, `check_write` sees
        if asked.verb in ("get", "delete"):
            is_own = self._pods.has(node, asked.namespace, asked.name)
            return None if is_own else f"no relationship found between node '{node}' and this object"
        return ""

    def _referenced(self, node: str, asked: Attributes) -> str | None:
        if asked.verb not in ("get", "list", "watch") or not asked.name:
            return "can only read resources of this type by name" if asked.verb in ("get", "list", "watch") else ""
        for pod in self._pods.of(node, asked.namespace):
            if asked.name in references(pod["spec"], asked.resource):
                return None
            if asked.resource == "persistentvolumeclaims" and asked.name in _ephemeral_claims(pod):
                return None
        return f"no relationship found between node '{node}' and this object"

    def _account_of_own_pod(self, node: str, asked: Attributes) -> str | None:
        for pod in self._pods.of(node, asked.namespace):
            if pod["spec"].get("serviceAccountName") == asked.name:
                return None
        return f"no relationship found between node '{node}' and this object"

    def check_write(self, user: UserInfo, kind: Kind, old: Object | None, new: Object | None, subresource: str) -> None:
        """Whether the content of a write may come from this user; `old` is None for a creation, `new` for a deletion.

        A node writes what is its own, and nobody binds or makes roles that allow more than they may do themselves.
        Raises a 403 `ApiError`.
        """
        check_grant(self.book, user, kind, old, new)
        node, present = node_name(user), new if new is not None else old
        if not node or present is None:
            return
        if kind is POD:
            reason = _pod_restriction(node, old, new, subresource)
        elif kind is NODE:
            reason = _node_restriction(node, old, new)
        elif kind is LEASE and name_of(present) != node:
            reason = f'node "{node}" is only allowed to access the lease named "{node}"'
        else:
            return
        if reason is not None:
            raise forbidden(kind.group, kind.plural, name_of(present), reason)


def node_name(user: UserInfo) -> str:
    """The node that the user is; empty when it is none."""
    if _NODES_GROUP in user.groups and user.name.startswith(_NODE_PREFIX):
        return user.name.removeprefix(_NODE_PREFIX)
    return ""


def references(spec: Object, resource: str) -> set[str]:
    """The names of the `secrets`, `configmaps` or `persistentvolumeclaims` that a pod refers to: in volumes,
    environment and pull secrets."""
    if resource == "persistentvolumeclaims":
        sources = (volume.get(_CLAIM) or {} for volume in spec.get("volumes") or ())
        return {str(source["claimName"]) for source in sources if source}
    field = _REFERENCED[resource]
    named = "secretName" if resource == "secrets" else "name"
    found: set[str] = set()
    for volume in spec.get("volumes") or ():
        found.add((volume.get(field) or {}).get(named) or "")
        for projection in (volume.get("projected") or {}).get("sources") or ():
            found.add((projection.get(field) or {}).get("name") or "")
    for list_of in ("containers", "initContainers", "ephemeralContainers"):
        for container in spec.get(list_of) or ():
            for source in container.get("envFrom") or ():
                found.add((source.get(f"{field}Ref") or {}).get("name") or "")
            for variable in container.get("env") or ():
                found.add(((variable.get("valueFrom") or {}).get(f"{field}KeyRef") or {}).get("name") or "")
    if resource == "secrets":
        found.update(each.get("name") or "" for each in spec.get("imagePullSecrets") or ())
    return found - {""}


def _ephemeral_claims(pod: Object) -> set[str]:
    """The claims that the pod's generic ephemeral volumes have."""
    return {
        f"{name_of(pod)}-{volume['name']}" for volume in pod["spec"].get("volumes") or () if volume.get("ephemeral")
    }


def _pod_restriction(node: str, old: Object | None, new: Object | None, subresource: str) -> str | None:
    if old is None:
        return _mirror_restriction(node, new or {})
    if (old.get("spec") or {}).get("nodeName") != node:
        action = "delete pods" if new is None else "update pod status for pods"
        return f'node "{node}" can only {action} with spec.nodeName set to itself'
    if new is not None and subresource == "status" and labels_of(new) != labels_of(old):
        return f'node "{node}" cannot update labels through pod status'
    return None


def _mirror_restriction(node: str, pod: Object) -> str | None:
    """A node creates nothing but pods that stand for its static pods, and those refer to no other object."""
    spec, owners = pod.get("spec") or {}, pod["metadata"].get("ownerReferences") or []
    if MIRROR not in annotations_of(pod):
        return f'pod does not have "{MIRROR}" annotation, node "{node}" can only create mirror pods'
    if spec.get("nodeName") != node:
        return f'node "{node}" can only create pods with spec.nodeName set to itself'
    if len(owners) != 1 or (owners[0].get("kind"), owners[0].get("name")) != ("Node", node):
        return f'node "{node}" can only create pods with an owner reference set to itself'
    if spec.get("serviceAccountName"):
        return f'node "{node}" can not create pods that reference a service account'
    for resource in ("secrets", "configmaps"):
        if references(spec, resource):
            return f'node "{node}" can not create pods that reference {resource}'
    for volume in spec.get("volumes") or ():
        if volume.get("persistentVolumeClaim"):
            return f'node "{node}" can not create pods that reference persistentvolumeclaims'
    return None


def _node_restriction(node: str, old: Object | None, new: Object | None) -> str | None:
    if new is None:
        return f'node "{node}" is not allowed to delete nodes'
    if name_of(new) != node:
        return f'node "{node}" is not allowed to modify node "{name_of(new)}"'
    before = labels_of(old) if old is not None else {}
    changed = {key for key in {**before, **labels_of(new)} if before.get(key) != labels_of(new).get(key)}
    refused = sorted(key for key in changed if not _is_own_label(key))
    if refused:
        return f'node "{node}" is not allowed to modify labels: {", ".join(refused)}'
    if old is not None and (new.get("spec") or {}).get("taints") != (old.get("spec") or {}).get("taints"):
        return f'node "{node}" is not allowed to modify taints'
    return None


def _is_own_label(key: str) -> bool:
    """Whether a node may set the label on itself. Kubernetes' own domains are closed but for a few keys."""
    domain = key.rpartition("/")[0]
    if domain == _RESTRICTED_LABEL_DOMAIN or domain.endswith(f".{_RESTRICTED_LABEL_DOMAIN}"):
        return False
    if key in _OWN_LABELS or any(domain == own or domain.endswith(f".{own}") for own in _OWN_LABEL_DOMAINS):
        return True
    is_kubernetes = any(domain == each or domain.endswith(f".{each}") for each in ("kubernetes.io", "k8s.io"))
    return not is_kubernetes
