"""What `bench_inside` runs in each place: a worker that does a piece of work whenever it is asked to.

    python3 bench_inside_work.py ASK ANSWER

ASK and ANSWER are named pipes. A line of ASK is `WORK PLACE`: the work's name, and the folder to do it in, which holds
a tree `library` of Python's own modules for what only reads. The line of ANSWER is the seconds of processor time, the
program's own and the kernel's for it, children included. Each piece is done by a new interpreter, because where the
kernel happens to put a program's memory makes it a few per cent slower or faster for all its life; its start is not
counted. Ends with ASK. Runs in containers that have Debian's Python and nothing else, so it imports only the standard
library.
"""

from __future__ import annotations

import hashlib
import os
import resource
import socket
import subprocess
import sys
import threading

_PIECE = 1 << 20


def processor() -> None:
    """Arithmetic and hashing."""
    total = 0
    for number in range(500_000):
        total = (total * 31 + number) & 0xFFFFFFFF
    data = bytes(_PIECE)
    for _ in range(20):
        data = hashlib.sha256(data).digest() + data[32:]


def loopback() -> None:
    """5,000 small and 2,000 large messages over a connection, each answered."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        peer, _ = server.accept()
        with peer:
            while data := peer.recv(1 << 16):
                peer.sendall(data[:64])

    thread = threading.Thread(target=serve)
    thread.start()
    with server, socket.create_connection(server.getsockname()) as client:
        for size, count in ((64, 5000), (1 << 15, 2000)):
            message = bytes(size)
            for _ in range(count):
                client.sendall(message)
                client.recv(1 << 16)
        client.shutdown(socket.SHUT_WR)
        thread.join()


def large() -> None:
    """A file of 64 MiB written, read twice and removed, a MiB at a time."""
    path = "large"
    piece = os.urandom(_PIECE)
    with open(path, "wb", buffering=0) as out:
        for _ in range(64):
            out.write(piece)
    buffer = bytearray(_PIECE)
    for _ in range(2):
        with open(path, "rb", buffering=0) as back:
            while back.readinto(buffer):
                pass
    os.unlink(path)


def small() -> None:
    """1,000 files of 64 KiB: each written, read, looked at and removed."""
    piece = os.urandom(1 << 16)
    for number in range(1000):
        path = str(number)
        with open(path, "wb") as out:
            out.write(piece)
        with open(path, "rb") as back:
            back.read()
        os.stat(path)
        os.unlink(path)


def records() -> None:
    """A file of 4 MiB as a database uses one: 10,000 records of 4 KiB read and written at changing places."""
    path = "records"
    record = os.urandom(4096)
    with open(path, "w+b", buffering=0) as file:
        file.write(record * 1024)
        for number in range(10_000):
            at = number * 7919 % 1024 * 4096
            os.pread(file.fileno(), 4096, at)
            os.pwrite(file.fileno(), record, at)
    os.unlink(path)


def synced() -> None:
    """40 records of 4 KiB appended, each with an fsync."""
    path = "synced"
    record = os.urandom(4096)
    with open(path, "wb", buffering=0) as out:
        for _ in range(40):
            out.write(record)
            os.fsync(out.fileno())
    os.unlink(path)


def walked() -> None:
    """All files of the library looked at, opened and read, three times."""
    for _ in range(3):
        for folder, _, names in os.walk("library"):
            for name in names:
                path = f"{folder}/{name}"
                os.stat(path)
                with open(path, "rb", buffering=0) as file:
                    file.read()


def imported() -> None:
    """Two interpreters that each import some hundred modules of the library."""
    program = "import sys; sys.path.insert(0, sys.argv[1]); import asyncio, email, http.server, unittest, xmlrpc.client"
    for _ in range(2):
        subprocess.run([sys.executable, "-I", "-S", "-B", "-c", program, "library"], check=True)


WORK = {
    "arithmetic and hashing": processor,
    "loopback, small and large messages": loopback,
    "one large file written and read": large,
    "records read and written within a file": records,
    "records appended, each with fsync": synced,
    "existing files looked at and read": walked,
    "programs started, modules imported": imported,
    "many small files made and removed": small,
}
OUT_OF_PLACE = ("arithmetic and hashing", "loopback, small and large messages")
"""Works that touch no file."""


def _spent() -> float:
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, who))


def once(work: str, place: str) -> None:
    os.chdir(place)  # so that all have paths of one length
    before = _spent()
    WORK[work]()
    print(_spent() - before)


def serve(ask: str, answer: str) -> None:
    with open(ask) as asked, open(answer, "w") as answers:
        for line in asked:
            command = [sys.executable, "-I", __file__, "once", *line.rstrip("\n").split("\t")]
            answers.write(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
            answers.flush()


if __name__ == "__main__":
    if sys.argv[1] == "once":
        once(*sys.argv[2:])
    else:
        serve(*sys.argv[1:])
