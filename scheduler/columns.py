"""One attribute of all nodes as one array: the building block of the snapshot.

A `CodeColumn` interns values: each row holds a small integer, equal values have equal integers. What a rule says of
a value is computed once per distinct value, in plain Python, and looked up for all rows in one vector
operation (`Lookup`). A `ChangeLog` tells readers which rows changed since they last looked.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Rows = slice | NDArray[np.intp]
"""Which rows of the snapshot: all (a slice, so that nothing is copied) or some (their numbers)."""

Bools = NDArray[np.bool_]
Numbers = NDArray[np.float64]
"""Whole numbers below 2^53, exact in 64-bit floats, which vector units divide several times faster than integers."""

Codes = NDArray[np.intp]
"""As wide as an index, so that a table is read through them without conversion."""

V = TypeVar("V", bound=Hashable)

ABSENT = 0
"""The code of a row that has no value (None)."""

SHARED_LOOKUPS = 16
"""Lookups of a column that are kept for others who ask the same; each holds a number for every row."""


class CodeColumn(Generic[V]):
    """An attribute of every node by code; `values[code]` is what the code stands for."""

    def __init__(self, capacity: int) -> None:
        self.codes: Codes = np.zeros(capacity, np.intp)
        self.values: list[V | None] = [None]
        self._code_of: dict[V | None, int] = {None: ABSENT}
        self.version = 0
        self._lookups: OrderedDict[Hashable, Lookup[V]] = OrderedDict()

    def set(self, row: int, value: V | None) -> None:
        """Give the row a value; None for no value."""
        code = self._code_of.get(value)
        if code is None:
            code = self._code_of[value] = len(self.values)
            self.values.append(value)
        self.codes[row] = code
        self.version += 1

    def code_of(self, value: V) -> int:
        """The value's code, -1 where no row has ever had it."""
        return self._code_of.get(value, -1)

    def grow(self, capacity: int) -> None:
        """Make room for `capacity` rows."""
        self.codes = grown(self.codes, capacity)

    def lookup(self, question: Hashable, compute: Callable[[V | None], int]) -> Lookup[V]:
        """The lookup that answers the question, shared by all who ask the same while it is among the last asked."""
        found = self._lookups.get(question)
        if found is None:
            found = self._lookups[question] = Lookup(self, compute)
            if len(self._lookups) > SHARED_LOOKUPS:
                self._lookups.popitem(last=False)
        return found

    def one_of(self, values: tuple[V, ...], rows: Rows) -> Bools:
        """Which rows have one of the values."""
        codes = self.codes[rows]
        found = np.zeros(codes.shape, np.bool_)
        for value in values:
            found |= codes == self.code_of(value)
        return found


class Lookup(Generic[V]):
    """A function of a column's value, for all rows at once.

    `compute` gets each distinct value once (None for rows without one) and returns a number. The answer for all rows is
    kept until a row changes.
    """

    def __init__(self, column: CodeColumn[V], compute: Callable[[V | None], int]) -> None:
        self._column = column
        self._compute = compute
        self._table: Numbers = np.empty(0, np.float64)
        self._seen: object = None
        self._all: Numbers = np.empty(0, np.float64)

    def at(self, rows: Rows) -> Numbers:
        """The function's value in each of the rows; not to be written to."""
        if isinstance(rows, slice):
            seen = (self._column.version, rows.start, rows.stop)
            if self._seen != seen:
                self._seen, self._all = seen, self._read(rows)
            return self._all
        return self._read(rows)

    def _read(self, rows: Rows) -> Numbers:
        values = self._column.values
        known = len(self._table)
        if len(values) > known:
            new = np.array([self._compute(value) for value in values[known:]], np.float64)
            self._table = np.concatenate((self._table, new))
        return self._table.take(self._column.codes[rows])


class ChangeLog:
    """The rows that changed, in order. It remembers the last `limit` to `2 * limit` changes."""

    def __init__(self, limit: int = 4096) -> None:
        self._limit = limit
        self._rows: list[int] = []
        self._start = 0

    def append(self, row: int) -> None:
        self._rows.append(row)
        if len(self._rows) >= 2 * self._limit:
            del self._rows[: self._limit]
            self._start += self._limit

    @property
    def position(self) -> int:
        """Where a reader that has seen everything is."""
        return self._start + len(self._rows)

    def since(self, position: int, at_most: int) -> list[int] | None:
        """The rows that changed after `position`, each once; None when that is too long ago or changed too many."""
        if position < self._start or self.position - position > at_most:
            return None
        rows = self._rows[position - self._start :]
        return rows if len(rows) < 2 else list(dict.fromkeys(rows))


def grown(array: NDArray[Any], *shape: int) -> NDArray[Any]:
    """A copy of the array with a larger shape, zero where it is new."""
    larger = np.zeros(shape, array.dtype)
    larger[tuple(slice(length) for length in array.shape)] = array
    return larger
