"""Keeps the packet filter of this node's pods as pods and policies say: from before a pod's first packet to after its
last.

    attach(pod) --> the pod's fragment, in the table before the pod has a link
    policies, pods of the cluster, namespaces change --> the fragments that follow from what changed

A pod that comes before the policies are known (the agent has just started, the API server is away) is closed until they
are: nothing reaches it and it reaches nobody but its node. One that ran before keeps the rules that it has. Pods and
namespaces of the cluster are followed only once there is a policy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from agent.network.policies import HostPort, host_ports_of, pod_fragment, policy_fragment
from agent.network.rules import NodeRules
from agent.network.ruleset import Fragment
from pyk.api.objects import Object, key_of
from pyk.client.informer import Informer
from pyk.network import names
from pyk.network.policy import PodFacts, Policy, is_peer, parse, pod_facts
from pyk.reconcile.clock import Clock
from pyk.reconcile.controller import Controller, Result

_KEY = "policies"


def pod_document_facts(pod: Object) -> Object:
    """Of a Pod only what policies follow from: what the informer keeps."""
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    containers = [
        {"ports": [port for port in container.get("ports") or () if port.get("name")]}
        for container in spec.get("containers") or ()
    ]
    metadata = {key: pod["metadata"].get(key) for key in ("name", "namespace", "uid", "resourceVersion", "labels")}
    return {
        "apiVersion": pod["apiVersion"],
        "kind": pod["kind"],
        "metadata": metadata,
        "spec": {"containers": containers, "hostNetwork": spec.get("hostNetwork", False)},
        "status": {key: status[key] for key in ("phase", "podIP", "podIPs") if key in status},
    }


@dataclass(frozen=True, slots=True)
class _LocalPod:
    facts: PodFacts
    host_ports: tuple[HostPort, ...]
    is_new: bool


class PodRules:
    """The loop, and what the pod network asks of it. All but `run` is for the event loop's own tasks."""

    def __init__(self, rules: NodeRules, policies: Informer, pods: Informer, namespaces: Informer, *, clock: Clock):
        self._rules = rules
        self._documents = policies
        self._pods = pods
        self._namespaces = namespaces
        self._policies: dict[str, Policy] = {}
        self._facts: dict[str, PodFacts] = {}
        self._local: dict[str, _LocalPod] = {}
        self._awaited: set[str] | None = None
        self._stale: set[str] = set()
        self._is_known = False
        self._follows_pods = asyncio.Event()
        self._controller = Controller("network-policies", self._reconcile, clock=clock, max_delay=5.0)
        self._controller.watches(policies, lambda policy: [_KEY])
        policies.add_handler(self._policy_changed)
        pods.add_handler(self._pod_changed)
        namespaces.add_handler(self._namespace_changed)

    # What the pod network asks

    async def admit(self, uid: str, pod: Object, addresses: Iterable[str], *, is_new: bool) -> None:
        """Have the pod's rules in the table. Raises `NetworkFailure`."""
        facts = replace(pod_facts(pod), addresses=tuple(addresses))
        self._local[uid] = _LocalPod(facts, tuple(host_ports_of(pod["spec"])), is_new)
        await self._rules.update(self._with_pod(uid))
        await self._settle(uid)

    async def remove(self, uid: str) -> None:
        """Take the pod's rules out of the table."""
        self._local.pop(uid, None)
        await self._rules.update({_pod_owner(uid): None})
        await self._settle(uid)

    async def expect(self, live: Iterable[str]) -> None:
        """The pods of before that are still there: when all of them have come, what others left is removed."""
        self._awaited = set(live) - self._local.keys()
        await self._settle("")

    async def _settle(self, uid: str) -> None:
        if self._awaited is None:
            return
        self._awaited.discard(uid)
        if not self._awaited:
            self._awaited = None
            await self._rules.sweep(names.POD_SETS, names.POD_CHAIN)

    # The loop

    async def run(self) -> None:
        """Follow policies, and pods and namespaces when they matter, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._documents.run())
            group.create_task(self._follow_pods())
            self._controller.enqueue(_KEY)
            await self._controller.run()

    async def _follow_pods(self) -> None:
        await self._follows_pods.wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pods.run())
            group.create_task(self._namespaces.run())
            await self._pods.wait_synced()
            await self._namespaces.wait_synced()
            self._controller.enqueue(_KEY)

    def _policy_changed(self, old: Object | None, new: Object | None) -> None:
        key = key_of(new or old or {})
        if new is None:
            self._policies.pop(key, None)
        else:
            self._policies[key] = parse(new)
            self._follows_pods.set()
        self._stale.add(key)

    def _pod_changed(self, old: Object | None, new: Object | None) -> None:
        key = key_of(new or old or {})
        before = self._facts.pop(key, None)
        after = None
        if new is not None:
            self._facts[key] = after = pod_facts(new)
        if before == after:
            return
        if new is not None and after is not None and (local := self._local.get(new["metadata"]["uid"])) is not None:
            facts = replace(local.facts, labels=after.labels)
            self._local[new["metadata"]["uid"]] = replace(local, facts=facts)
            self._controller.enqueue(_KEY)
        labels = self._namespace_labels()
        for name, policy in self._policies.items():
            if any(facts is not None and _concerns(policy, facts, labels) for facts in (before, after)):
                self._stale.add(name)
                self._controller.enqueue(_KEY)

    def _namespace_changed(self, old: Object | None, new: Object | None) -> None:
        if old is None or new is None or old["metadata"].get("labels") != new["metadata"].get("labels"):
            self._stale.update(self._policies)
            self._controller.enqueue(_KEY)

    async def _reconcile(self, key: str) -> Result | None:
        if self._follows_pods.is_set() and not (self._pods.is_synced and self._namespaces.is_synced):
            return None  # their arrival is the next turn
        first, self._is_known = not self._is_known, True
        stale, self._stale = self._stale, set()
        try:
            await self._rules.update(self._changes(set(self._policies) if first else stale))
        except BaseException:
            self._stale |= stale
            self._is_known = not first
            raise
        if first:
            await self._rules.sweep(names.POLICY_SETS, names.POLICY_CHAIN)
        return None

    def _changes(self, stale: set[str]) -> dict[str, Fragment | None]:
        """The stale policies' fragments, and all pods': which policies select them may have changed."""
        labels, pods = self._namespace_labels(), self._all_pods()
        changes: dict[str, Fragment | None] = {}
        for key in stale:
            policy = self._policies.get(key)
            changes[_policy_owner(key)] = None if policy is None else policy_fragment(policy, pods, labels)
        for uid in self._local:
            changes |= self._with_pod(uid)
        return changes

    def _with_pod(self, uid: str) -> dict[str, Fragment | None]:
        pod = self._local[uid]
        policies = self._policies.values() if self._is_known else None
        changes: dict[str, Fragment | None] = {
            _pod_owner(uid): pod_fragment(uid, pod.facts, pod.host_ports, policies, is_new=pod.is_new)
        }
        # A chain that the pod's own jumps to has to be there, though the loop has not come to it.
        labels, pods = self._namespace_labels(), None
        for key, policy in self._policies.items() if self._is_known else ():
            if policy.selects(pod.facts) and (key in self._stale or _policy_owner(key) not in self._known_owners()):
                pods = self._all_pods() if pods is None else pods
                changes[_policy_owner(key)] = policy_fragment(policy, pods, labels)
        return changes

    def _known_owners(self) -> set[str]:
        return set(self._rules.owners("policy/"))

    def _all_pods(self) -> list[PodFacts]:
        """The cluster's pods; of those on this node, what is known here is newer."""
        local = {(pod.facts.namespace, pod.facts.name): pod.facts for pod in self._local.values()}
        others = [facts for facts in self._facts.values() if (facts.namespace, facts.name) not in local]
        return [*local.values(), *others]

    def _namespace_labels(self) -> Mapping[str, Mapping[str, str]]:
        return {
            namespace["metadata"]["name"]: namespace["metadata"].get("labels") or {}
            for namespace in self._namespaces.values()
        }


def _concerns(policy: Policy, pod: PodFacts, namespaces: Mapping[str, Mapping[str, str]]) -> bool:
    if policy.selects(pod):
        return True
    rules = [rule for rules in policy.directions.values() for rule in rules]
    if any(port.name for rule in rules for port in rule.ports or ()):
        return True  # a named port is what the pods that are sent to say, whoever they are
    return any(is_peer(peer, policy, pod, namespaces) for rule in rules for peer in rule.peers or ())


def _pod_owner(uid: str) -> str:
    return f"pod/{uid}"


def _policy_owner(key: str) -> str:
    return f"policy/{key}"
