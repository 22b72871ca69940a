"""Which of the kernel's OOM kills are the node's, and following its log."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from agent.oomwatch import Victim, follow_oom, is_of_node, parse_victim

LINE = (
    "4,40211,18079917941,-;oom-kill:constraint={},nodemask=(null),cpuset=/,mems_allowed=0,{}"
    "task_memcg=/pyk/n1/kubepods/pod1/c,task=sh,pid=14108,uid=0\n"
)


def line(limit_of: str) -> str:
    if not limit_of:
        return LINE.format("CONSTRAINT_NONE", "global_oom,")
    return LINE.format("CONSTRAINT_MEMCG", f"oom_memcg={limit_of},")


def test_a_victim_is_read_from_the_kernels_line() -> None:
    assert parse_victim(line("/pyk/n1")) == Victim("sh", 14108, "/pyk/n1", "/pyk/n1/kubepods/pod1/c")
    assert parse_victim(line("")) == Victim("sh", 14108, "", "/pyk/n1/kubepods/pod1/c")
    assert parse_victim("4,1,2,-;Memory cgroup out of memory: Killed process 14108 (sh)") is None
    assert parse_victim("4,1,2,-;oom-kill:nonsense") is None


@pytest.mark.parametrize(
    ("limit_of", "expected"),
    [
        pytest.param("", True, id="the machine"),
        pytest.param("/pyk/n1", True, id="the node"),
        pytest.param("/pyk", True, id="what holds the node"),
        pytest.param("/pyk/n1/kubepods", True, id="all pods together"),
        pytest.param("/pyk/n1/kubepods/pod1", False, id="a pod"),
        pytest.param("/pyk/n1/kubepods/pod1/c", False, id="a container"),
        pytest.param("/pyk/n10", False, id="another node"),
    ],
)
def test_a_pods_own_limit_is_not_the_nodes(limit_of: str, expected: bool) -> None:
    victim = parse_victim(line(limit_of))
    assert victim is not None
    assert is_of_node(victim, "/pyk/n1") is expected


async def test_the_log_is_followed_from_now_on(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "kmsg")
    told: list[str] = []
    arrived = asyncio.Event()

    def tell(text: str) -> None:
        told.append(text)
        arrived.set()

    async def skip_seek() -> None:
        await follow_oom("/pyk/n1", tell, tmp_path / "kmsg")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agent.oomwatch.os.lseek", lambda fd, offset, whence: 0)  # a pipe has no end to go to
        following = asyncio.create_task(skip_seek())
        await asyncio.sleep(0)
        with (tmp_path / "kmsg").open("w") as log:
            log.write(line("/pyk/n1"))
            log.flush()
            async with asyncio.timeout(5):
                await arrived.wait()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    assert told == ["System OOM encountered, victim process: sh, pid: 14108"]


async def test_without_a_kernel_log_nothing_is_followed(tmp_path: Path) -> None:
    await follow_oom("/pyk/n1", lambda text: None, tmp_path / "none")
