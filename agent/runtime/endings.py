"""How containers ended, and what their records say of it.

The spawner is told by its children themselves. Of a process that another spawner made, the kernel tells through a pidfd
(Linux 6.15), or /proc while it is a zombie, or a program of ours in the kernel (exits.py). Where nothing tells, the
exit is `exit_unknown` with code 137, as the kubelet does with containers it finds gone.
"""

from __future__ import annotations

from agent.runtime import clock, records, syscalls
from agent.runtime.forker import wait_status
from agent.runtime.records import EXITED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.runtime.cgroups import Cgroups
    from agent.runtime.exits import Exits
    from agent.runtime.records import ContainerRecord

_UNKNOWN_EXIT = 137


def record_end(record: ContainerRecord, status: int | None, cgroups: Cgroups) -> None:
    """Put into the record, but not on disk, that the container has ended; `status` None: nobody knows how."""
    record.exit_code, record.signal = (_UNKNOWN_EXIT, 0) if status is None else wait_status(status)
    record.exit_unknown = status is None
    record.oom_killed = cgroups.oom_kills(record.cgroup) > 0
    record.finished_at = clock.now()
    record.phase = EXITED


def status_of(record: ContainerRecord, pidfd: int, exits: Exits) -> int | None:
    """The wait status of a process that is not our child: from the kernel once it is reaped, from /proc before; or as
    it was noted."""
    status = syscalls.pidfd_exit_status(pidfd)
    if status is None:
        fields = records.stat_fields(record.pid)
        if len(fields) > 49 and fields[0] == "Z" and int(fields[19]) == record.start_time:
            return int(fields[49])
        status = syscalls.pidfd_exit_status(pidfd)
    return exits.status(record.pid) if status is None else status
