"""The rules of a node as one document of many owners, and the transactions that make the kernel's table so.

    owner (a service, a policy, a pod) -> Fragment -- update --> messages of one transaction

A fragment is what one owner wants in the table: chains with their rules, and elements of sets. Chains that several
want (the picks of endpoints) are the same for all of them, and stay while one does. The shared sets hold the elements
of all; a change of one owner touches its own and costs what changed. Where two want the same key (two services with one
external address and port, say) the owner that comes first by name has it, until it lets go.

After a start the ruleset takes over what the kernel has (`adopt`): what owners want and is there already costs nothing,
and `sweep` removes what nobody came to want. No table is emptied in between, so connections, counters and affinities
stay. Pure, but for being told what there is; `agent/network/rules.py` sends its messages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from pyk import nftables
from pyk.network.names import TABLE
from pyk.nftables import Data, FoundRule, Message, Rule, Verdict


@dataclass(frozen=True, slots=True)
class Fragment:
    """What one owner wants: chain to rules, and set to key to data."""

    chains: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)
    elements: Mapping[str, Mapping[bytes, Data]] = field(default_factory=dict)


NOTHING = Fragment()


class Ruleset:
    """All fragments, and what the kernel still has of an earlier agent."""

    def __init__(self) -> None:
        self._fragments: dict[str, Fragment] = {}
        self._claims: dict[tuple[str, bytes], dict[str, Data]] = {}
        self._users: Counter[str] = Counter()
        self._found_elements: dict[str, dict[bytes, Data]] = {}
        self._found_chains: dict[str, tuple[bytes, ...]] = {}

    def fragment(self, owner: str) -> Fragment:
        """What the owner wants; nothing when it is unknown."""
        return self._fragments.get(owner, NOTHING)

    def fragments(self, owners: Iterable[str]) -> dict[str, Fragment | None]:
        """What they want now, to come back to."""
        return {owner: self._fragments.get(owner) for owner in owners}

    def owners(self, prefix: str) -> list[str]:
        return [owner for owner in self._fragments if owner.startswith(prefix)]

    def adopt(self, chains: Mapping[str, list[FoundRule]], elements: Mapping[str, dict[bytes, Data]]) -> list[Message]:
        """Learn what the kernel has: the messages that make it hold all fragments, and leave the rest."""
        self._found_chains = {name: tuple(rule.digest for rule in rules) for name, rules in chains.items()}
        self._found_elements = {name: dict(there) for name, there in elements.items()}
        fragments, self._fragments, self._claims = self._fragments, {}, {}
        self._users.clear()
        return self.update(fragments)

    def update(self, changes: Mapping[str, Fragment | None]) -> list[Message]:
        """Take the owners' new fragments (None: nothing any more); the messages for the kernel, in order."""
        added, removed, rewritten = self._chain_changes(changes)
        deletions: dict[str, list[bytes]] = {}
        additions: dict[str, list[tuple[bytes, Data]]] = {}
        for name, key, before, after in self._element_changes(changes):
            if before is not _ABSENT:
                deletions.setdefault(name, []).append(key)
            if after is not _ABSENT:
                additions.setdefault(name, []).append((key, after))  # type: ignore[arg-type]
        for owner, fragment in changes.items():
            if fragment is None:
                self._fragments.pop(owner, None)
            else:
                self._fragments[owner] = fragment
        return [
            *(nftables.add_chain(TABLE, nftables.Chain(name)) for name in added),
            *_deletions(deletions),
            *(nftables.flush_chain(TABLE, name) for name in (*rewritten, *removed) if name not in added),
            *(nftables.add_rule(TABLE, name, rule) for name, rules in rewritten.items() for rule in rules),
            *_additions(additions),
            *(nftables.delete_chain(TABLE, name) for name in removed),
        ]

    def sweep(self, sets: Iterable[str], chain_prefixes: tuple[str, ...]) -> list[Message]:
        """Remove what an earlier agent left in these sets, and in chains whose names begin so, and nobody wants."""
        deletions = {name: list(self._found_elements.pop(name, ())) for name in sets}
        chains = [name for name in self._found_chains if name.startswith(chain_prefixes)]
        for name in chains:
            del self._found_chains[name]
        return [
            *_deletions(deletions),
            *(nftables.flush_chain(TABLE, name) for name in chains),
            *(nftables.delete_chain(TABLE, name) for name in chains),
        ]

    def _chain_changes(
        self, changes: Mapping[str, Fragment | None]
    ) -> tuple[list[str], list[str], dict[str, tuple[Rule, ...]]]:
        """Names to add, names to remove, and chains to write anew."""
        added, removed, rewritten = [], [], {}
        for owner, fragment in changes.items():
            before, after = self.fragment(owner).chains, (fragment or NOTHING).chains
            for name, rules in after.items():
                if name in before:
                    if before[name] != rules:
                        rewritten[name] = rules
                    continue
                self._users[name] += 1
                if self._users[name] > 1:
                    continue  # somebody else made it: a chain of many follows from its name
                found = self._found_chains.pop(name, None)
                if found is None:
                    added.append(name)
                if found is None or found != tuple(rule.digest for rule in rules):
                    rewritten[name] = rules
        for owner, fragment in changes.items():
            after = (fragment or NOTHING).chains
            for name in self.fragment(owner).chains:
                if name not in after:
                    self._users[name] -= 1
                    if not self._users[name]:
                        removed.append(name)
        return added, removed, rewritten

    def _element_changes(self, changes: Mapping[str, Fragment | None]) -> Iterator[tuple[str, bytes, object, object]]:
        """Set, key, what was there and what shall be; `_ABSENT` is nothing."""
        touched: dict[tuple[str, bytes], object] = {}
        for owner, fragment in changes.items():
            before, after = self.fragment(owner).elements, (fragment or NOTHING).elements
            for name in before.keys() | after.keys():
                old, new = before.get(name, {}), after.get(name, {})
                if old is new:
                    continue
                for key in old.keys() - new.keys():
                    self._claim(touched, name, key, owner, _ABSENT)
                for key, data in new.items():
                    if key not in old or old[key] != data:
                        self._claim(touched, name, key, owner, data)
        for (name, key), was in touched.items():
            now = _effective(self._claims.get((name, key)))
            if was is _ABSENT:
                was = self._found_elements.get(name, {}).pop(key, _ABSENT)
            if now != was:
                yield name, key, was, now

    def _claim(self, touched: dict[tuple[str, bytes], object], name: str, key: bytes, owner: str, data: object) -> None:
        place = (name, key)
        claims = self._claims.get(place)
        touched.setdefault(place, _effective(claims))
        if data is _ABSENT:
            if claims is not None:
                claims.pop(owner, None)
                if not claims:
                    del self._claims[place]
        elif claims is None:
            self._claims[place] = {owner: data}  # type: ignore[dict-item]
        else:
            claims[owner] = data  # type: ignore[assignment]


_ABSENT = object()


def _effective(claims: dict[str, Data] | None) -> object:
    if not claims:
        return _ABSENT
    return claims[min(claims)] if len(claims) > 1 else next(iter(claims.values()))


def _deletions(elements: Mapping[str, list[bytes]]) -> Iterator[Message]:
    for name, keys in elements.items():
        yield from nftables.delete_elements(TABLE, name, keys)


def _additions(elements: Mapping[str, list[tuple[bytes, Data]]]) -> Iterator[Message]:
    for name, added in elements.items():
        yield from nftables.add_elements(TABLE, name, added)


def go_to(chain: str) -> Verdict:
    return Verdict(nftables.GOTO, chain)
