"""The system call bpf(2): maps that programs and this process share, and the loading of programs."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator

HASH, LRU_HASH = 1, 9
SCHED_CLS, RAW_TRACEPOINT = 3, 17
"""Kinds of programs: for packets, at a link; and for one of the kernel's tracepoints."""
_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
_CREATE, _LOOKUP, _UPDATE, _DELETE, _NEXT, _LOAD, _OPEN_TRACEPOINT = 0, 1, 2, 3, 4, 5, 17
_LICENSE = b"Dual MIT/GPL\0"
"""Of what is loaded: the kernel lends the functions that programs of ours call to such as may be had under the GPL."""
_AS_NEEDED = 1  # BPF_F_NO_PREALLOC
_LOG_BYTES = 1 << 20
_Buffer = ctypes.Array[ctypes.c_char]
_libc = ctypes.CDLL(None, use_errno=True)


class BpfFailure(OSError):
    """The kernel refused a map or a program; the text says why."""


def _bpf(command: int, attributes: bytes, what: str) -> int:
    number = _NUMBERS.get(platform.machine())
    if number is None:
        raise BpfFailure(f"{what}: the number of bpf(2) on {platform.machine()} is not known")
    result = int(_libc.syscall(number, command, _buffer(attributes), len(attributes)))
    if result < 0:
        code = ctypes.get_errno()
        raise BpfFailure(code, f"{what}: {os.strerror(code)}")
    return result


class Map:
    """Keys and values of fixed sizes in the kernel. An `LRU_HASH` has all its memory and makes room by itself; a `HASH`
    takes it as it grows."""

    def __init__(self, name: str, kind: int, key_size: int, value_size: int, entries: int) -> None:
        self._name, self._key_size, self._value_size = name, key_size, value_size
        flags = _AS_NEEDED if kind == HASH else 0
        fields = struct.pack("=7I16s", kind, key_size, value_size, entries, flags, 0, 0, name.encode()[:15])
        self.descriptor = _bpf(_CREATE, fields, f"map {name}")

    @classmethod
    def of(cls, descriptor: int, name: str, key_size: int, value_size: int) -> Map:
        """A map that there is already; the descriptor is its own from now on."""
        found = cls.__new__(cls)
        found.descriptor, found._name, found._key_size, found._value_size = descriptor, name, key_size, value_size
        return found

    def close(self) -> None:
        os.close(self.descriptor)

    def put(self, key: bytes, value: bytes) -> None:
        """Have the value under the key. Raises `BpfFailure` when the map is full."""
        self._ask(_UPDATE, _buffer(key), _buffer(value))

    def get(self, key: bytes) -> bytes | None:
        value = ctypes.create_string_buffer(self._value_size)
        return value.raw if self._ask(_LOOKUP, _buffer(key), value) else None

    def remove(self, key: bytes) -> None:
        """Nothing happens when there is no such key."""
        self._ask(_DELETE, _buffer(key), None)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """What there is, more or less: others may change it meanwhile."""
        key, following = None, ctypes.create_string_buffer(self._key_size)
        while self._ask(_NEXT, key, following):
            key = _buffer(following.raw)
            if (value := self.get(following.raw)) is not None:
                yield following.raw, value

    def _ask(self, command: int, key: _Buffer | None, value: _Buffer | None) -> bool:
        """Whether there is such a key."""
        places = (0 if given is None else ctypes.addressof(given) for given in (key, value))
        try:
            _bpf(command, struct.pack("=IxxxxQQQ", self.descriptor, *places, 0), f"map {self._name}")
        except BpfFailure as failure:
            if failure.errno != errno.ENOENT:
                raise
            return False
        return True


def _buffer(data: bytes) -> _Buffer:
    return ctypes.create_string_buffer(data, len(data))


def attach(tracepoint: str, program: int) -> int:
    """Have the kernel run a `RAW_TRACEPOINT` program wherever it passes the tracepoint, until the descriptor that is
    returned is closed by all who have it. Raises `BpfFailure`."""
    name = ctypes.create_string_buffer(tracepoint.encode())
    return _bpf(_OPEN_TRACEPOINT, struct.pack("=QII", ctypes.addressof(name), program, 0), f"tracepoint {tracepoint}")


def load(name: str, code: bytes, kind: int = SCHED_CLS) -> int:
    """Have the kernel check and take a program of that kind; its descriptor. Raises `BpfFailure` with the kernel's
    reasons."""
    instructions, license_ = _buffer(code), _buffer(_LICENSE)

    def attempt(level: int, log: int) -> int:
        fields = struct.pack(
            "=IIQQIIQII16s",
            *(kind, len(code) // 8, ctypes.addressof(instructions), ctypes.addressof(license_)),
            *(level, _LOG_BYTES if level else 0, log, 0, 0, name.encode()[:15]),
        )
        return _bpf(_LOAD, fields, f"program {name}")

    try:
        return attempt(0, 0)
    except BpfFailure as refused:
        reasons = ctypes.create_string_buffer(_LOG_BYTES)
        try:
            return attempt(1, ctypes.addressof(reasons))
        except BpfFailure:
            lines = reasons.value.decode(errors="replace").strip().splitlines()
            raise BpfFailure(refused.errno, "; ".join([str(refused.strerror), *lines[-3:]])) from None
