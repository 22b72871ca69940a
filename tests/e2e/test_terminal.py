"""`exec -it` as people use it: under a terminal whose size changes, with keys that come one after the other."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.harness import BIN, KUBECTL, PATIENCE_SECONDS, Cluster, pod_document
from tests.patience import patient


class Terminal:
    """A command under a pseudo-terminal."""

    def __init__(self, pid: int, descriptor: int) -> None:
        self.pid, self.descriptor = pid, descriptor
        self.seen = b""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self.descriptor, keys)

    def expect(self, text: bytes) -> None:
        """Wait until the text is shown; what was shown before it is forgotten."""
        deadline = time.monotonic() + patient(PATIENCE_SECONDS)
        while text not in self.seen:
            ready, _, _ = select.select([self.descriptor], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                pytest.fail(f"{text!r} is not shown; what is: {self.seen!r}")
            self.seen += os.read(self.descriptor, 65536)
        self.seen = self.seen.partition(text)[2]

    def wait(self) -> int:
        """The command's exit status."""
        while True:
            try:
                os.read(self.descriptor, 65536)
            except OSError:  # EIO: nobody has the other end any more
                return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@contextmanager
def terminal(cluster: Cluster, *command: str) -> Iterator[Terminal]:
    pid, descriptor = pty.fork()
    if pid == 0:
        os.execve(command[0], command, cluster.environment)
    try:
        yield Terminal(pid, descriptor)
    finally:
        os.close(descriptor)  # a hang-up ends what is still there


@pytest.mark.parametrize("command", [str(KUBECTL), str(BIN / "pyk")], ids=["kubectl", "pyk"])
def test_a_shell_in_a_container_has_the_size_of_the_terminal_and_takes_one_line_after_the_other(
    cluster: Cluster, namespace: str, command: str
) -> None:
    cluster.apply(pod_document("box"), namespace)
    cluster.wait_ready(namespace, "box")
    with terminal(cluster, command, "exec", "box", "-it", "-n", namespace, "--", "sh") as shell:
        shell.expect(b"# ")
        for rows, columns in ((31, 93), (44, 120)):
            shell.resize(rows, columns)
            # The size travels beside the keys: ask until it has arrived.
            shell.type(f'until [ "$(stty size)" = "{rows} {columns}" ]; do :; done; echo is-$((1 + 1))\n'.encode())
            shell.expect(b"is-2\r\n")
            shell.expect(b"# ")
        # Not a bare sleep: an interactive shell's child loses a Ctrl-C that comes before it has become the sleep.
        shell.type(b"sh -c 'echo up-$((1 + 1)); exec sleep 1000'\n")
        shell.expect(b"up-2\r\n")
        shell.type(b"\x03")
        shell.expect(b"# ")
        shell.type(b"exit 5\n")
        assert shell.wait() == 5
