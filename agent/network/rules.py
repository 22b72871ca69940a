"""Keeps the node's nf_tables table as the ruleset says: one thread, one transaction a change.

At the start the table is made where it is missing and read where it is there; rules of an earlier agent go on working
until everything that they followed from is known again, and only then is what nobody wants removed (`sweep`). When the
kernel refuses a transaction nothing of it is done, and the next change reads the table back and sends what differs.

Others may write to the table, or flush it with all rules of the machine. The kernel counts transactions, and `check`
compares its count with ours: where somebody else has written, what is always there is looked at, and mended with all
the rest when it is not whole. Rules of owners are read back for such a change as well, but not more often than once a
minute, for at ten thousand services that takes a while and somebody else's table may change all the time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from agent.network.base import base_rules, inside_ranges, skeleton
from agent.network.contract import NetworkFailure
from agent.network.ruleset import Fragment, Ruleset
from pyk import nftables
from pyk.network import names
from pyk.network.names import TABLE, of_family
from pyk.nftables import FoundRule, Message, Nftables, NftablesFailure

log = logging.getLogger(__name__)

_BASE = "!base"  # comes before every other owner
READ_BACK_SECONDS = 60.0
_GENERATIONS = 1 << 32
_Result = TypeVar("_Result")


class NodeRules:
    """The table `inet pyk` of the network namespace in which the agent runs. Ranges are CIDRs."""

    def __init__(self, *, pod_ranges: Iterable[str], service_ranges: Iterable[str]) -> None:
        self._base = base_rules(pod_ranges, service_ranges)
        self._ruleset = Ruleset()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="node-rules")
        self._nftables: Nftables | None = None
        self._is_known = False
        self._inside: frozenset[str] | None = None
        self._generation = 0
        self._handle = 0
        self._read_back = 0.0

    async def start(self) -> None:
        """Make the table, or take over the one there is. Raises `NetworkFailure` when the kernel has no nf_tables."""
        await self._run(lambda: self._apply({_BASE: Fragment(self._base)}))

    async def close(self) -> None:
        """Let go; the rules stay."""
        await self._run(self._close)
        self._thread.shutdown()

    async def update(self, changes: Mapping[str, Fragment | None]) -> None:
        """Make these owners' fragments so, in one transaction. Raises `NetworkFailure`; trying again is right."""
        if changes:
            await self._run(lambda: self._apply(changes))

    async def sweep(self, sets: Iterable[str], *chain_prefixes: str) -> None:
        """Remove what an earlier agent left in these sets (without family) and in chains named so."""
        stored = names.stored_sets(sets)
        await self._run(lambda: self._send(self._ruleset.sweep(stored, chain_prefixes)))

    async def set_inside(self, ranges: Iterable[str], *, only_if_empty: bool = False) -> None:
        """The ranges to which pods show their own addresses; those of an earlier agent stay with `only_if_empty`."""
        wanted = frozenset(ranges)
        if wanted != self._inside:
            await self._run(lambda: self._write_inside(wanted, only_if_empty))

    async def check(self, now: float) -> bool:
        """Mend what others have done to the table by `now` (seconds of a monotonic clock); whether there was something
        to mend."""
        return await self._run(lambda: self._check(now))

    def owners(self, prefix: str) -> list[str]:
        """Who has a fragment, of those whose names begin so."""
        return self._ruleset.owners(prefix)

    # In the thread

    async def _run(self, work: Callable[[], _Result]) -> _Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except OSError as error:
            raise NetworkFailure(str(error)) from error

    def _socket(self) -> Nftables:
        if self._nftables is None:
            self._nftables = Nftables()
        return self._nftables

    def _close(self) -> None:
        if self._nftables is not None:
            self._nftables.close()
            self._nftables = None

    def _apply(self, changes: Mapping[str, Fragment | None]) -> None:
        messages = [] if self._is_known else self._take_over()
        before = self._ruleset.fragments(changes)
        try:
            self._send([*messages, *self._ruleset.update(changes)])
        except NftablesFailure:
            self._ruleset.update(before)  # whoever asked for this may ask again; others shall not fail with it
            raise

    def _check(self, now: float) -> bool:
        socket = self._socket()
        if not self._handle or socket.generation() == self._generation:
            return False
        is_whole = self._is_known and self._is_whole()
        if is_whole and now < self._read_back:
            return False
        self._read_back = now + READ_BACK_SECONDS
        self._is_known = False
        messages = self._take_over()
        self._send(messages)
        if self._inside is not None and not is_whole:
            self._write_inside(self._inside, only_if_empty=False)
        if messages or not is_whole:
            log.warning("somebody has changed the table inet %s; %d messages mended it", TABLE, len(messages))
        return bool(messages) or not is_whole

    def _is_whole(self) -> bool:
        """Whether the table is the one that was made, with the rules and sets that are always there."""
        socket = self._socket()
        if socket.table_handle(TABLE) != self._handle:
            return False
        for chain, rules in self._base.items():
            found = socket.rules(TABLE, chain).get(chain, [])
            if [rule.digest for rule in found] != [rule.digest for rule in rules]:
                return False
        return socket.sets(TABLE) >= {wanted.name for wanted in names.all_sets()}

    def _take_over(self) -> list[Message]:
        socket = self._socket()
        socket.transaction(skeleton())
        self._generation, self._handle = socket.generation(), socket.table_handle(TABLE)
        chains: dict[str, list[FoundRule]] = {name: [] for name in socket.chains(TABLE)} | socket.rules(TABLE)
        kept = [wanted for wanted in names.all_sets() if not wanted.flags]
        elements = {wanted.name: socket.elements(TABLE, wanted.name) for wanted in kept}
        self._is_known = True
        return self._ruleset.adopt(chains, elements)

    def _send(self, messages: list[Message]) -> None:
        try:
            sent = self._socket().transaction(messages)
        except NftablesFailure:
            self._is_known = False
            raise
        self._generation = (self._generation + bool(sent)) % _GENERATIONS

    def _write_inside(self, wanted: frozenset[str], only_if_empty: bool) -> None:
        if only_if_empty and any(self._socket().intervals(TABLE, of_family(names.INSIDE, f)) for f in names.FAMILIES):
            return
        messages = []
        for family, ranges in inside_ranges(wanted).items():
            name = of_family(names.INSIDE, family)
            messages.append(nftables.flush_set(TABLE, name))
            messages += nftables.add_intervals(TABLE, name, ranges)
        self._send(messages)
        self._inside = wanted
