"""Take cgroups down once their processes are dead, without blocking and without giving up early."""

from __future__ import annotations

from agent.runtime import clock
from agent.runtime.server import OperationFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.runtime.cgroups import Cgroups
    from agent.runtime.loop import Loop
    from agent.runtime.server import Request

_FIRST_PAUSE, _LONGEST_PAUSE, _PATIENCE = 0.001, 0.1, 10.0  # seconds


class _Job:
    def __init__(self, cgroup: str, is_dead: Callable[[], bool], finish: Callable[[], object]) -> None:
        self.cgroup = cgroup
        self.is_dead = is_dead
        self.finish = finish
        self.requests: list[Request] = []
        self.deadline = clock.monotonic() + _PATIENCE
        self.pause = _FIRST_PAUSE


class Teardown:
    """Removals under way, by id. Several requests for one are answered together, with what its `finish` returns.

    A process that a signal has reached still takes a moment to leave its cgroup, so removal is tried again with
    growing pauses; after ten seconds the requests fail (the process hangs in the kernel), and may be made again.
    """

    def __init__(self, loop: Loop, cgroups: Cgroups) -> None:
        self._loop = loop
        self._cgroups = cgroups
        self._jobs: dict[str, _Job] = {}

    def begin(
        self,
        identifier: str,
        cgroup: str,
        is_dead: Callable[[], bool],
        finish: Callable[[], object],
        request: Request | None = None,
    ) -> None:
        """Remove the cgroup when `is_dead()`, then call `finish`."""
        job = self._jobs.get(identifier)
        if job is None:
            job = self._jobs[identifier] = _Job(cgroup, is_dead, finish)
        if request is not None:
            job.requests.append(request)
        self.proceed(identifier)

    def proceed(self, identifier: str) -> None:
        """Try again; call this when the main process has ended. Nothing under way by this id is fine."""
        job = self._jobs.get(identifier)
        if job is None:
            return
        if job.is_dead() and self._cgroups.try_remove(job.cgroup):
            del self._jobs[identifier]
            try:
                result = job.finish()
            except OSError as error:
                for request in job.requests:
                    request.fail(OperationFailed(f"remove {identifier}: {error}", "RemoveContainerError"))
                return
            for request in job.requests:
                request.reply(result)
            return
        self._cgroups.kill(job.cgroup)
        if clock.monotonic() > job.deadline:
            del self._jobs[identifier]
            survivors = self._cgroups.processes(job.cgroup)[:8]
            for request in job.requests:
                request.fail(OperationFailed(f"processes {survivors} of {identifier} do not die", "KillContainerError"))
            return
        self._loop.later(job.pause, lambda: self._again(identifier, job))
        job.pause = min(job.pause * 2, _LONGEST_PAUSE)

    def _again(self, identifier: str, job: _Job) -> None:
        if self._jobs.get(identifier) is job:
            self.proceed(identifier)
