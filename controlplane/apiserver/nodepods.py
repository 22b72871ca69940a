"""Which pods are bound to which node, read live from the watch cache: what a node's rights are decided by.

`NodePods` follows the changes of pods that the cache keeps, as `RoleBook` follows roles: it takes over what is new
before each answer, so an answer costs what the node has, not what the cluster has. When it was not asked for longer
than the cache remembers, it reads all pods once.
"""

from __future__ import annotations

from collections.abc import Iterator

from controlplane.apiserver.encoding import decode
from controlplane.apiserver.watchcache import Entry, KindCache
from pyk.api.kinds import POD
from pyk.api.objects import Object

_NODE_NAME = list(POD.rules.fields).index("spec.nodeName")


class NodePods:
    """The pods of nodes; `pods` is the cache of their kind."""

    def __init__(self, pods: KindCache) -> None:
        self._pods = pods
        self._seen = -1
        self._by_node: dict[tuple[str, str], dict[str, None]] = {}
        """The names of pods by their node and namespace."""

    def of(self, node: str, namespace: str) -> Iterator[Object]:
        """The pods of a namespace that are bound to the node, parsed one by one."""
        self._catch_up()
        for name in self._by_node.get((node, namespace), ()):
            if (entry := self._pods.get(namespace, name)) is not None:
                yield decode(entry.data)

    def has(self, node: str, namespace: str, name: str) -> bool:
        """Whether a pod is bound to the node."""
        entry = self._pods.get(namespace, name)
        return entry is not None and entry.fields[_NODE_NAME] == node

    def _catch_up(self) -> None:
        if self._pods.changed == self._seen:
            return
        changes = self._pods.changes_after(self._seen)
        if changes is None:
            self._by_node.clear()
            for entry in self._pods.entries():
                self._put(entry)
        else:
            for change in changes:
                if change.old is not None:
                    self._take(change.old)
                if change.new is not None:
                    self._put(change.new)
        self._seen = self._pods.changed

    def _put(self, entry: Entry) -> None:
        if node := entry.fields[_NODE_NAME]:
            self._by_node.setdefault((node, entry.namespace), {})[entry.name] = None

    def _take(self, entry: Entry) -> None:
        key = (entry.fields[_NODE_NAME], entry.namespace)
        if (names := self._by_node.get(key)) is not None:
            names.pop(entry.name, None)
            if not names:
                del self._by_node[key]
