"""Agents one after the other, each a fork of a process that has imported everything, so that a restart costs little.

    python -m tests.integration.survival.agents LOG FLAGS-OF-THE-AGENT...

Each line on stdin starts one; its pid is the line on stdout. An agent is the real one, put together as `python -m
agent` does it, with `steps` loaded.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
from typing import NoReturn

from agent import __main__ as agent
from tests.integration.survival import steps


def main() -> None:
    log = sys.argv.pop(1)
    steps.Page(os.environ[steps.VARIABLE]).disarm()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how an agent ended
    gc.freeze()
    for _ in sys.stdin:
        pid = os.fork()
        if not pid:
            _be_agent(log)
        print(pid, flush=True)


def _be_agent(log: str) -> NoReturn:
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        for number, fd in enumerate((null, out, out)):
            os.dup2(fd, number)
        steps.install(steps.AGENT)
        status = agent.main()
    except Exception:  # noqa: BLE001 - the end of this process, which would tell nobody
        traceback.print_exc()
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
