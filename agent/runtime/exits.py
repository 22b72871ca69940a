"""How processes end, noted by the kernel itself for kernels that do not remember it: before Linux 6.15.

There nobody but a process's parent is told its exit status, and a container whose spawner has died has a parent that
does not care. So a program of ours (eBPF) runs in the kernel whenever a thread ends, and notes the status if the
process is in a map of those that are watched:

    pid --watched--> status of the whole process, all ones until its last thread has ended

Map and program exist for as long as somebody has descriptors of them: this spawner, and its keeper for the next one
(keeper.py). Not to be had are a kernel without its own types (BTF), one before Linux 5.18 (which does not gather the
status in one place), one that forbids such programs, and a PID namespace other than the machine's: how a container
ended that nobody saw is unknown there. Source: kernel/exit.c (`synchronize_group_exit`, `do_exit`).
"""

from __future__ import annotations

import os
import struct

from agent.runtime.telling import tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyk.bpf import Map

NAMES = ("/exits", "/exits.program")
"""What the keeper calls the map and the program: no container is called so."""
_EVENT = "sched_process_exit"
_SIGNAL, _STATUS = ("task_struct", "signal"), ("signal_struct", "group_exit_code")
_FIRST, _TOLD = (5, 18), (6, 15)
_MACHINES_PIDS = 0xEFFFFFFC
"""The inode number of the first PID namespace (PROC_PID_INIT_INO)."""
_PROCESSES = 1 << 16
_PID, _VALUE = struct.Struct("=I"), struct.Struct("=I")
_NOT_YET = 0xFFFFFFFF
_LOOKUP, _PID_OF_THREAD, _TASK, _READ_KERNEL = 1, 14, 35, 113  # helpers (linux/bpf.h)


def are_needed() -> bool:
    """Whether this kernel does not tell by itself how a foreign process ended, but could note it."""
    release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    return _FIRST <= release < _TOLD and os.stat("/proc/self/ns/pid").st_ino == _MACHINES_PIDS


class Exits:
    """The spawner's view of the map. It does nothing until `begin` or `take`, and nothing where that fails, or where
    the kernel needs none of it."""

    def __init__(self, *, are_needed: bool) -> None:
        self._watched: Map | None = None
        self._program = -1
        self._are_needed = are_needed

    def take(self, kept: dict[str, int]) -> None:
        """Have what a spawner before this one began, taken out of what its keeper `kept`."""
        found = [kept.pop(name, -1) for name in NAMES]
        if min(found) < 0:
            for fd in found:
                if fd >= 0:
                    os.close(fd)
            return
        from pyk.bpf import Map

        self._watched = Map.of(found[0], NAMES[0], _PID.size, _VALUE.size)
        self._program = found[1]

    def begin(self) -> dict[str, int]:
        """Have the kernel note: the descriptors by name that are to be given to the keeper now, as it has them no more
        or never had them. A failure is told once."""
        if not self._are_needed:
            return {}
        self._are_needed = False
        if self._watched is None:
            self._watched = self._load()
        return self.descriptors()

    def descriptors(self) -> dict[str, int]:
        """What has to stay open, by name."""
        return {} if self._watched is None else dict(zip(NAMES, (self._watched.descriptor, self._program), strict=True))

    def watch(self, pid: int, *, is_new: bool) -> None:
        """Have the process's status noted; of one that is not `is_new`, go on if it is watched already."""
        if self._watched is None or (not is_new and self._watched.get(_PID.pack(pid)) is not None):
            return
        try:
            self._watched.put(_PID.pack(pid), _VALUE.pack(_NOT_YET))
        except OSError as error:
            tell(f"how process {pid} ends may stay unknown: {error}")

    def status(self, pid: int) -> int | None:
        """The wait status of a watched process that has ended; None when it was not noted."""
        value = None if self._watched is None else self._watched.get(_PID.pack(pid))
        status = _NOT_YET if value is None else _VALUE.unpack(value)[0]
        return None if status == _NOT_YET else int(status)

    def forget(self, pid: int) -> None:
        """Nothing has to be known of it any more."""
        if self._watched is not None and pid:
            self._watched.remove(_PID.pack(pid))

    def forget_all_but(self, pids: Iterable[int]) -> None:
        """A spawner was killed before it could forget those that had ended."""
        if self._watched is not None:
            living = set(pids)
            for pid in [_PID.unpack(key)[0] for key, _ in self._watched.items()]:
                if pid not in living:
                    self.forget(pid)

    def close(self) -> None:
        """Let go of both: without a keeper that has them too, nothing is noted any more."""
        if self._watched is not None:
            self._watched.close()
            os.close(self._program)
            self._watched = None

    def _load(self) -> Map | None:
        from pyk.bpf import HASH, RAW_TRACEPOINT, KernelTypes, Map, attach, load

        try:
            types = KernelTypes((), (_SIGNAL[0], _STATUS[0]))
            watched = Map("pyk_exits", HASH, _PID.size, _VALUE.size, _PROCESSES)
            try:
                code = _program(watched.descriptor, types.offset(*_SIGNAL), types.offset(*_STATUS))
                loaded = load("pyk_exits", code, RAW_TRACEPOINT)
                try:
                    self._program = attach(_EVENT, loaded)
                finally:
                    os.close(loaded)
            except BaseException:
                watched.close()
                raise
        except (OSError, KeyError) as error:
            tell(f"how containers end while there is no spawner will not be known: {error}")
            return None
        return watched


def _program(watched: int, signal: int, status: int) -> bytes:
    """For `watched`, a map's descriptor: note `task->signal->group_exit_code`, at these offsets.

    It is final before the last thread gets here, and whoever gets here earlier notes what the last one replaces.
    """
    from pyk.bpf import Assembler, Register

    r0, r1, r2, r3, _, _, r6, *_, r10 = Register
    code = Assembler()
    code.call(_PID_OF_THREAD)
    code.compute(r0, ">>", 32)  # the process, of process and thread
    code.store(r10, -4, r0, 4)
    code.load_map(r1, watched)
    code.move(r2, r10)
    code.compute(r2, "+", -4)
    code.call(_LOOKUP)
    code.jump_if(r0, "==", 0, "end")
    code.move(r6, r0)
    code.call(_TASK)
    code.move(r3, r0)
    code.compute(r3, "+", signal)
    code.move(r2, 8)
    code.move(r1, r10)
    code.compute(r1, "+", -16)
    code.call(_READ_KERNEL)
    code.jump_if(r0, "!=", 0, "end")
    code.load(r3, r10, -16, 8)
    code.compute(r3, "+", status)
    code.move(r2, _VALUE.size)
    code.move(r1, r6)
    code.call(_READ_KERNEL)
    code.label("end")
    code.move(r0, 0)
    code.exit()
    return code.assemble()
