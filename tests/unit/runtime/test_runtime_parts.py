"""The small parts of the spawner: frames, records, the pause program, sysctls, commands."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from agent.runtime import process, records, sandbox, sessions, syscalls, wire
from agent.runtime.process import CannotExecute


class TestFrames:
    @pytest.fixture
    def ends(self) -> Any:
        left, right = (wire.Connection(sock) for sock in socket.socketpair())
        yield left, right
        left.close()
        right.close()

    def test_messages_arrive_in_order_with_their_descriptors(self, ends: Any) -> None:
        left, right = ends
        reader, writer = os.pipe()
        left.send({"n": 1})
        left.send({"n": 2}, [writer])
        left.send({"n": 3}, [reader, writer])
        os.close(writer)
        messages = list(right.receive())
        assert [(message["n"], len(fds)) for message, fds in messages] == [(1, 0), (2, 1), (3, 2)]
        os.write(messages[1][1][0], b"x")
        assert os.read(messages[2][1][0], 1) == b"x"
        for _, fds in messages:
            for fd in fds:
                assert not os.get_inheritable(fd)
                os.close(fd)
        os.close(reader)

    def test_a_large_message_goes_in_pieces(self, ends: Any) -> None:
        left, right = ends
        reader, writer = os.pipe()
        left.send({"text": "x" * 1_000_000}, [reader])
        os.close(reader)
        os.close(writer)
        assert left.pending
        found: list[Any] = []
        while not found:
            found += right.receive()
            left.flush()
        assert len(found[0][0]["text"]) == 1_000_000
        os.close(found[0][1][0])
        assert not left.pending

    def test_the_end_and_nonsense_are_told(self, ends: Any) -> None:
        left, right = ends
        left.sock.send(struct.pack("=IB", wire.MAX_FRAME + 1, 0))
        with pytest.raises(ValueError, match="a frame of"):
            list(right.receive())
        left.close()
        with pytest.raises(EOFError):
            list(right.receive())

    def test_a_long_path_can_be_an_address(self, tmp_path: Path) -> None:
        directory = tmp_path / ("x" * 120)
        directory.mkdir()
        with socket.socket(socket.AF_UNIX) as sock:
            with wire.directory_address(str(directory / "s")) as address:
                sock.bind(address)
            assert (directory / "s").is_socket()


class TestRecords:
    def test_state_changes_and_the_body_stays(self, tmp_path: Path) -> None:
        record = records.RecordFile(str(tmp_path / "r"))
        record.create({"phase": "a"}, {"plan": "x" * 10_000})
        record.update({"phase": "b", "more": 1})
        record.update({"phase": "c"})
        assert record.read() == ({"phase": "c"}, {"plan": "x" * 10_000})
        with pytest.raises(FileExistsError):
            record.create({}, {})
        record.replace({"phase": "d"}, {"plan": "y"})
        assert record.read() == ({"phase": "d"}, {"plan": "y"})
        record.remove()
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("length", [0, 10, 4096, 4100])
    def test_a_record_cut_short_is_none(self, tmp_path: Path, length: int) -> None:
        record = records.RecordFile(str(tmp_path / "r"))
        record.create({"phase": "a"}, {"plan": "x" * 100})
        os.truncate(record.path, length)
        assert record.read() is None

    def test_a_state_beyond_a_page_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(OSError, match="longer than a page") as error:
            records.RecordFile(str(tmp_path / "r")).create({"x": "y" * 5000}, {})
        assert error.value.errno == errno.ENAMETOOLONG

    def test_a_process_is_named_by_its_start(self) -> None:
        assert records.start_time(os.getpid()) > 0
        child = subprocess.Popen(["sleep", "100"])
        assert records.start_time(child.pid) > records.start_time(1)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert records.start_time(child.pid) == 0  # a zombie
        child.wait()
        assert records.start_time(child.pid) == 0


class TestPause:
    def test_the_program_waits_and_takes_no_memory(self) -> None:
        program = sandbox.sealed_pause_file()
        writable = os.open(f"/proc/self/fd/{program}", os.O_WRONLY)
        with pytest.raises(PermissionError):
            os.write(writable, b"x")
        os.close(writable)
        pid = os.fork()
        if not pid:
            try:
                syscalls.exec_fd(program, [b"pause"], [])
            finally:
                os._exit(1)
        try:
            while "pause" not in os.readlink(f"/proc/{pid}/exe"):
                os.sched_yield()
            resident = Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0]
            assert int(resident) < 100
            os.kill(pid, signal.SIGTERM)
        finally:
            _, status = os.waitpid(pid, 0)
            os.close(program)
        assert os.WTERMSIG(status) == signal.SIGTERM

    @pytest.mark.parametrize(("machine", "number"), [("x86_64", 62), ("aarch64", 183)])
    def test_the_program_is_an_executable_of_the_machine(self, machine: str, number: int) -> None:
        program = sandbox.pause_program(machine)
        assert program[:4] == b"\x7fELF"
        kind, elf_machine, _, entry = struct.unpack_from("<HHIQ", program, 16)
        assert (kind, elf_machine) == (2, number)
        size, address = struct.unpack_from("<Q", program, 64 + 32)[0], struct.unpack_from("<Q", program, 64 + 16)[0]
        assert size == len(program)
        assert entry - address == 120


class TestSysctls:
    def config(self, **sysctls: str) -> dict[str, Any]:
        return {"host_network": False, "host_ipc": False, "sysctls": sysctls}

    @pytest.mark.parametrize(
        ("name", "path"),
        [
            ("net.core.somaxconn", "net/core/somaxconn"),
            ("net/core/somaxconn", "net/core/somaxconn"),
            ("net.ipv4.conf.eth0/100.forwarding", "net/ipv4/conf/eth0.100/forwarding"),
            ("net/ipv4/conf/eth0.100/forwarding", "net/ipv4/conf/eth0.100/forwarding"),
            ("kernel.shm_rmid_forced", "kernel/shm_rmid_forced"),
            ("kernel.msgmax", "kernel/msgmax"),
            ("fs.mqueue.msg_max", "fs/mqueue/msg_max"),
        ],
    )
    def test_names_of_the_pod_s_namespaces(self, name: str, path: str) -> None:
        assert sandbox.sysctl_files(self.config(**{name: "1"})) == {path: "1"}

    @pytest.mark.parametrize(
        "name", ["vm.swappiness", "kernel.hostname", "net/../vm/swappiness", "netx.y", "fs.file-max"]
    )
    def test_what_would_change_the_host_is_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match="does not belong to a namespace of the pod"):
            sandbox.sysctl_files(self.config(**{name: "1"}))

    def test_a_pod_on_the_host_s_network_may_not_change_it(self) -> None:
        with pytest.raises(ValueError, match="does not belong"):
            sandbox.sysctl_files(self.config(**{"net.core.somaxconn": "1"}) | {"host_network": True})


class TestCommands:
    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        (tmp_path / "program").write_text("")
        (tmp_path / "program").chmod(0o755)
        (tmp_path / "data").write_text("")
        (tmp_path / "folder").mkdir()
        return tmp_path

    def test_found_in_the_path_or_by_its_own(self, directory: Path) -> None:
        environment = {b"PATH": b"/none:" + os.fsencode(directory)}
        assert process.find_command("program", environment) == f"{directory}/program"
        assert process.find_command(f"{directory}/program", {}) == f"{directory}/program"
        assert process.find_command("true", {}) == "/usr/bin/true"

    @pytest.mark.parametrize(
        ("name", "code", "text"),
        [
            ("missing", 127, "executable file not found in $PATH"),
            ("data", 126, "permission denied"),
            ("folder", 127, "executable file not found in $PATH"),
            ("{}/missing", 127, "no such file or directory"),
            ("{}/data", 126, "permission denied"),
            ("{}/folder", 126, "is a directory"),
            ("{}/data/below", 127, "no such file or directory"),
        ],
    )
    def test_what_cannot_be_executed(self, directory: Path, name: str, code: int, text: str) -> None:
        with pytest.raises(CannotExecute) as failure:
            process.find_command(name.format(directory), {b"PATH": os.fsencode(directory)})
        assert failure.value.exit_code == code
        assert text in str(failure.value)


def test_an_exec_is_the_container_s_process_with_another_command() -> None:
    given = {"args": ["a"], "env": ["PATH=/bin", "X=1"], "uid": 5, "terminal": False, "rows": 0, "columns": 0}
    arguments = {"command": ["b"], "environment": {"X": "2", "Y": "a=b"}, "terminal": True, "rows": 3, "columns": 4}
    made = sessions.exec_process(given, arguments)
    assert (made["args"], made["uid"], made["terminal"], made["rows"], made["columns"]) == (["b"], 5, True, 3, 4)
    assert made["env"] == ["PATH=/bin", "X=2", "TERM=xterm", "Y=a=b"]
    assert given["args"] == ["a"]
