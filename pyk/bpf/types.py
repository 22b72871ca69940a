"""What the running kernel says of its own structures and functions (BTF), so that programs fit whatever kernel it is.

The file is a row of types, each 12 bytes and what belongs to its kind, and their names in one string. A few of its
hundred thousand are wanted, so it is walked once for all of them (0.1 s). Source: Documentation/bpf/btf.rst.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

FILE = Path("/sys/kernel/btf/vmlinux")

_STRUCT, _FUNCTION = 4, 12
_MORE_BYTES = {1: 4, 3: 12, 14: 4, 17: 4}  # after the type itself: of a number, an array, a variable, a tag
_BYTES_EACH = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}  # and of each member, enumerator, parameter, ...
_TYPE = struct.Struct("=III")


class KernelTypes:
    """The functions and structures with these names. Raises OSError where the kernel tells nothing, or KeyError (in the
    methods) for a name that it does not have."""

    def __init__(self, functions: Iterable[str], structures: Iterable[str], data: bytes | None = None) -> None:
        data = FILE.read_bytes() if data is None else data
        magic, _, _, head, types, types_size, strings, strings_size = struct.unpack_from("=HBBIIIII", data)
        if magic != 0xEB9F:
            raise OSError("the kernel's types are written for another byte order")
        self._strings = data[head + strings : head + strings + strings_size]
        wanted = {self._strings.find(b"\0" + name.encode() + b"\0") + 1: name for name in (*functions, *structures)}
        self._functions: dict[str, int] = {}
        self._members: dict[str, dict[str, int]] = {}
        self._sizes: dict[str, int] = {}
        position, end, number = head + types, head + types + types_size, 0
        while position < end:
            number += 1
            name, info, size = _TYPE.unpack_from(data, position)
            kind, count = info >> 24 & 31, info & 0xFFFF
            if name in wanted and kind == _FUNCTION:
                self._functions[wanted[name]] = number
            elif name in wanted and kind == _STRUCT:
                self._sizes[wanted[name]] = size
                self._members[wanted[name]] = {
                    self._text(member): (bits & 0xFFFFFF if info >> 31 else bits) // 8
                    for member, _, bits in struct.iter_unpack("=III", data[position + 12 : position + 12 + 12 * count])
                }
            position += 12 + _MORE_BYTES.get(kind, 0) + _BYTES_EACH.get(kind, 0) * count

    def function(self, name: str) -> int:
        """Its number, for a program to call it by."""
        return self._functions[name]

    def offset(self, structure: str, member: str) -> int:
        """How many bytes from the beginning of the structure the member lies."""
        return self._members[structure][member]

    def size(self, structure: str) -> int:
        """Bytes of it."""
        return self._sizes[structure]

    def _text(self, at: int) -> str:
        return self._strings[at : self._strings.index(b"\0", at)].decode()
