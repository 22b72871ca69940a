"""Random operations on a store, held against a plain dict: the contract where nobody thought of the example."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.store.contract import Conflict, Entry, KeyExists

KEYS = ["a", "b", "b/c", "ü", "\U0010ffff"]
PREFIXES = ["", "b", "b/", "zz"]

keys = st.sampled_from(KEYS)
values = st.binary(max_size=20)
expectations = st.sampled_from(["right", "old", "neighbour"])
operations = st.one_of(
    st.tuples(st.just("create"), keys, values),
    st.tuples(st.just("update"), keys, values, expectations),
    st.tuples(st.just("delete"), keys, expectations),
    st.tuples(st.just("list"), st.sampled_from(PREFIXES), st.integers(0, 30), st.integers(0, 3)),
)
# Each inner list runs concurrently.
programs = st.lists(st.lists(operations, min_size=1, max_size=8), max_size=12)

bounded = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
_spaces = itertools.count()


class Model:
    """The keys of one run, every state they were in, and how to judge what a store answered."""

    def __init__(self, store: Any, start: int) -> None:
        self.store = store
        self.space = f"/model-{next(_spaces)}/"
        self.start = start
        self.entries: dict[str, Entry] = {}
        self.history: list[tuple[int, dict[str, Entry]]] = [(start, {})]
        self.last_revision: dict[str, int] = {}

    async def run(self, operation: tuple[Any, ...], entries: dict[str, Entry]) -> Any:
        """Do one operation, computed from `entries`; (operation, expected revision, what came of it)."""
        kind, key = operation[0], self.space + operation[1]
        if kind == "list":
            return operation, None, await self.check_list(*operation[1:])
        expected = None
        if kind != "create":
            right = entries[key].revision if key in entries else self.last_revision.get(key, self.start)
            expected = {"right": right, "old": self.start, "neighbour": right + 1}[operation[-1]]
        try:
            if kind == "create":
                outcome: Any = await self.store.create(key, operation[2])
            elif kind == "update":
                outcome = await self.store.update(key, operation[2], expected)
            else:
                outcome = await self.store.delete(key, expected)
        except (KeyExists, Conflict) as error:
            outcome = error
        return operation, expected, outcome

    async def check_list(self, prefix: str, back: int, limit: int) -> None:
        revision, state = self.history[-1 - back % len(self.history)]
        page = await self.store.list(self.space + prefix, at=revision, limit=limit)
        wanted = [state[key] for key in sorted(state) if key.startswith(self.space + prefix)]
        assert list(page.entries) == (wanted[:limit] if limit else wanted)
        assert page.remaining == (max(len(wanted) - limit, 0) if limit else 0)

    def apply(self, results: list[Any]) -> None:
        """The writes that won are possible in the order of their revisions; those that lost had to lose."""
        before = dict(self.entries)
        won = sorted((result for result in results if isinstance(result[2], int)), key=lambda result: result[2])
        touched = {self.space + operation[1] for operation, _, _ in won}
        for operation, expected, revision in won:
            key = self.space + operation[1]
            assert revision > self.history[-1][0]
            present = self.entries.get(key)
            assert (present.revision if present else None) == expected
            if operation[0] == "delete":
                del self.entries[key]
            else:
                self.entries[key] = Entry(key, operation[2], revision)
            self.last_revision[key] = revision
            self.history.append((revision, dict(self.entries)))
        for operation, expected, outcome in results:
            key = self.space + operation[1]
            if isinstance(outcome, Exception) and key not in touched:
                present = before.get(key)
                assert (present.revision if present else None) != expected
                if isinstance(outcome, Conflict):
                    assert outcome.current == present

    async def check_watch(self, after_index: int) -> None:
        """Replaying the events above any revision leads from the state there to the present one."""
        after, state = self.history[after_index]
        state = dict(state)
        count = len(self.history) - 1 - after_index
        revisions: list[int] = []
        async with aclosing(self.store.watch(self.space, after=after)) as watch, asyncio.timeout(20):
            while len(revisions) < count:
                for event in (await anext(watch)).events:
                    previous = state.pop(event.key, None)
                    assert event.previous == (previous.value if previous else None)
                    if event.value is not None:
                        state[event.key] = Entry(event.key, event.value, event.revision)
                    revisions.append(event.revision)
        assert revisions == [revision for revision, _ in self.history[after_index + 1 :]]
        assert state == self.entries


@pytest.mark.timeout(300)
@bounded
@given(program=programs)
async def test_any_program_does_what_the_model_says(store: Any, program: list[list[tuple[Any, ...]]]) -> None:
    model = Model(store, await store.revision())
    for concurrent in program:
        entries = dict(model.entries)
        model.apply(await asyncio.gather(*(model.run(operation, entries) for operation in concurrent)))
        page = await store.list(model.space)
        assert {entry.key: entry for entry in page.entries} == model.entries
        for key in KEYS:
            assert await store.get(model.space + key) == model.entries.get(model.space + key)
    await asyncio.gather(*(model.check_watch(index) for index in range(0, len(model.history), 5)))
