"""One virtual machine of the lab under qemu: start, ask over SSH, cut its cable, pull its plug, put it back.

A machine writes to an overlay of the image's disk. Its first interface leads, through qemu's own network and a port of
loopback, to whoever runs the lab; its second is its cable on the lab's segment, a multicast group on loopback that only
these machines join. What its console prints is in `console`, a file.

Guarantees: nothing leaves this machine; `stop` ends the process that was started, by its pid.
Fails with `LabError`, in whose message are the console's last lines when a machine does not come up.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.image import Image, LabError, run
from tests.patience import patient
from tests.ports import free_port

BOOT_SECONDS = 300.0
_POLL_SECONDS = 0.5
# An emulated clock beside busy neighbours fails the kernel's check of its timer; a panic boots again.
_KERNEL = "root=/dev/vda rw console=ttyS0 panic=-1 no_timer_check net.ifnames=0"
_CONSOLE_LINES = 15


@dataclass(frozen=True)
class Done:
    """What a command in a machine came to."""

    code: int
    out: str


@dataclass
class Machine:
    """`number` makes its hardware address; `address` is on the segment; `ports` of its own are led to loopback's."""

    name: str
    number: int
    address: str
    image: Image
    folder: Path
    segment: int
    """The multicast port of the machines that share a cable."""
    memory_megabytes: int = 1024
    cpus: int = 2
    forwards: Sequence[int] = ()
    ports: dict[int, int] = field(default_factory=dict)
    """The ports of loopback that lead to the machine's: 22 and the forwarded ones."""
    _process: subprocess.Popen[bytes] | None = None

    @property
    def console(self) -> Path:
        return self.folder / f"{self.name}.console"

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Put the power on; `wait` waits for it to answer."""
        disk = self.folder / f"{self.name}.qcow2"
        if not disk.exists():
            run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", self.image.disk, disk)
        for port in (22, *self.forwards):
            self.ports.setdefault(port, free_port())
        forwards = "".join(f",hostfwd=tcp:127.0.0.1:{here}-:{there}" for there, here in self.ports.items())
        hardware = f"52:54:00:70:6b:{self.number:02x}"
        command = [
            "qemu-system-x86_64",
            *("-accel", "tcg,thread=multi", "-cpu", "max", "-smp", str(self.cpus), "-m", str(self.memory_megabytes)),
            *("-nographic", "-nodefaults", "-no-user-config", "-serial", f"file:{self.console}"),
            *("-qmp", f"unix:{self._control},server=on,wait=off"),
            *("-kernel", str(self.image.kernel), "-initrd", str(self.image.initrd)),
            *("-append", f"{_KERNEL} lab.name={self.name} lab.address={self.address}/24"),
            *("-drive", f"file={disk},if=virtio,format=qcow2,cache=unsafe"),
            *("-netdev", f"user,id=mine,restrict=on{forwards}", "-device", "virtio-net-pci,netdev=mine"),
            *("-netdev", f"socket,id=cable,mcast=230.112.107.1:{self.segment},localaddr=127.0.0.1"),
            *("-device", f"virtio-net-pci,netdev=cable,mac={hardware}"),
            *("-device", "virtio-rng-pci"),
        ]
        with self.console.open("ab") as errors:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)

    def wait(self, seconds: float = BOOT_SECONDS) -> None:
        """Return when it answers over SSH. Raises `LabError` when it does not in time, or its process ended."""
        end = time.monotonic() + patient(seconds)
        while time.monotonic() < end:
            if not self.is_running:
                raise LabError(f"{self.name} ended while it booted; its console: {self.last_lines()}")
            if self.ask("true", seconds=20).code == 0:
                return
            time.sleep(_POLL_SECONDS)
        raise LabError(f"{self.name} does not answer after {patient(seconds):.0f} s; its console: {self.last_lines()}")

    def last_lines(self) -> str:
        """The end of what the console has printed."""
        lines = self.console.read_text(errors="replace").splitlines() if self.console.exists() else []
        return "\n".join(lines[-_CONSOLE_LINES:])

    def ask(self, command: str, *, seconds: float = 120.0, text: str | None = None) -> Done:
        """Run a shell command as root; a code of 255 when the machine is out of reach, 124 when time is up."""
        try:
            done = subprocess.run(
                [*self._ssh("ssh", "-p"), "root@127.0.0.1", command],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL if text is None else None,
                input=text,
                text=True,
                timeout=patient(seconds),
            )
        except subprocess.TimeoutExpired as error:
            return Done(124, (error.stdout or b"").decode(errors="replace") if error.stdout else "")
        return Done(done.returncode, done.stdout)

    def tell(self, command: str, *, seconds: float = 120.0) -> str:
        """The output of a command that must succeed. Raises `LabError`."""
        done = self.ask(command, seconds=seconds)
        if done.code:
            raise LabError(f"{self.name}: `{command}` ended with {done.code}: {done.out[-2000:].strip()}")
        return done.out

    def put(self, source: Path, target: str) -> None:
        """Copy a file or folder to the machine."""
        run(*self._ssh("scp", "-P"), "-q", "-r", source, f"root@127.0.0.1:{target}")

    def get(self, source: str, target: Path) -> None:
        """Copy a file from the machine."""
        run(*self._ssh("scp", "-P"), "-q", f"root@127.0.0.1:{source}", target)

    def cable(self, is_in: bool) -> None:
        """Plug the cable of the segment in or out."""
        self._qmp("set_link", name="cable", up=is_in)

    def pull_the_plug(self) -> None:
        """The power goes, at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def reboot(self) -> None:
        """An orderly restart; `wait` waits for it."""
        before = self.tell("cat /proc/sys/kernel/random/boot_id")
        self.ask("systemctl reboot", seconds=10)
        end = time.monotonic() + patient(BOOT_SECONDS)
        while time.monotonic() < end:
            now = self.ask("cat /proc/sys/kernel/random/boot_id", seconds=20)
            if now.code == 0 and now.out != before:
                return
            time.sleep(_POLL_SECONDS)
        raise LabError(f"{self.name} did not come back; its console: {self.last_lines()}")

    def stop(self) -> None:
        """End the process. Idempotent."""
        self.pull_the_plug()
        with contextlib.suppress(FileNotFoundError):
            self._control.unlink()

    @property
    def _control(self) -> Path:
        return self.folder / f"{self.name}.qmp"

    def _ssh(self, program: str, port_flag: str) -> list[str]:
        options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ConnectTimeout=15")
        flags = [word for option in options for word in ("-o", option)]
        key = ["-i", str(self.image.ssh_key), "-o", "IdentitiesOnly=yes"]
        return [program, "-F", os.devnull, *flags, *key, port_flag, str(self.ports[22])]

    def _qmp(self, command: str, **arguments: object) -> None:
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(30)
            control.connect(str(self._control))
            answers = _lines(control)
            next(answers)  # the greeting
            for each in ({"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments}):
                control.sendall(json.dumps(each).encode() + b"\n")
                answer = next(line for line in answers if "event" not in line)
                if "error" in answer:
                    raise LabError(f"{self.name}: qemu refused {command}: {answer['error']}")


def _lines(control: socket.socket) -> Iterator[dict[str, object]]:
    data = b""
    while True:
        while b"\n" not in data:
            more = control.recv(65536)
            if not more:
                raise LabError("qemu ended its control connection")
            data += more
        line, _, data = data.partition(b"\n")
        yield json.loads(line)
