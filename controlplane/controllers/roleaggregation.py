"""The loop of aggregated roles: a ClusterRole with an `aggregationRule` has the rules of all roles that it selects.

Watches ClusterRoles; a change of any may be about every role that gathers, of which there are few. The rules are those
of the selected roles in the order of their names, each once; what else stood in the role is replaced. A role that is
itself gathered changes in turn, so that chains (`view` into `edit` into `admin`) settle link by link.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pyk.api.kinds import CLUSTER_ROLE
from pyk.api.objects import Object, is_deleting, key_of, labels_of, name_of
from pyk.api.selectors import from_document, matches
from pyk.client.client import Client
from pyk.client.informer import Informer
from pyk.reconcile.clock import Clock
from pyk.reconcile.controller import Controller


def gathered_rules(role: Object, roles: Iterable[Object]) -> list[dict[str, Any]]:
    """The rules that an aggregated role must have."""
    selectors = [from_document(each) or () for each in role["aggregationRule"].get("clusterRoleSelectors") or ()]
    found: list[dict[str, Any]] = []
    for other in sorted(roles, key=name_of):
        if name_of(other) != name_of(role) and any(matches(selector, labels_of(other)) for selector in selectors):
            found += (rule for rule in other.get("rules") or () if rule not in found)
    return found


class RoleAggregationLoop:
    """Observes ClusterRoles and writes the rules of those that gather."""

    def __init__(self, client: Client, clock: Clock, roles: Informer) -> None:
        self._client = client
        self._roles = roles
        roles.add_index("gathers", lambda role: ("yes",) if role.get("aggregationRule") else ())
        self.controller = Controller("clusterroleaggregation", self.reconcile, clock=clock)
        self.controller.watches(roles, lambda role: map(key_of, roles.by_index("gathers", "yes")))

    async def reconcile(self, key: str) -> None:
        """See to one role."""
        role = self._roles.get(key)
        if role is None or is_deleting(role) or not role.get("aggregationRule"):
            return
        rules = gathered_rules(role, self._roles.values())
        if rules == (role.get("rules") or []):
            return
        version = role["metadata"]["resourceVersion"]
        # Only onto the state that was decided from: somebody may just have changed the selectors.
        patch = {"metadata": {"resourceVersion": version}, "rules": rules}
        await self._client.patch(CLUSTER_ROLE, key, "", patch)
