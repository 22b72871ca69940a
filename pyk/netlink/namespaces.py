"""Doing something in another network namespace: in a thread that goes there, or in this one that comes back."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from typing import TypeVar

_CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)
_Result = TypeVar("_Result")


def in_namespace(namespace: str | int, action: Callable[[], _Result]) -> _Result:
    """Run `action` in a short-lived thread that has entered the network namespace (a path or a file descriptor).

    A process or socket that it makes belongs to that namespace; the calling thread stays where it is.

    Raises:
        OSError: there is no such namespace, or whatever `action` raises.
    """
    outcome: list[_Result] = []
    failure: list[BaseException] = []

    def enter() -> None:
        try:
            _enter(namespace)
            outcome.append(action())
        except BaseException as error:  # noqa: BLE001 - raised again in the calling thread
            failure.append(error)

    thread = threading.Thread(target=enter, name="in-namespace")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def visit(namespace: str | int, action: Callable[[], _Result]) -> _Result:
    """As `in_namespace`, in the calling thread, without the price of another one. The first thread stays: it is whom
    others see when they look at the process."""
    if threading.current_thread() is threading.main_thread():
        return in_namespace(namespace, action)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(namespace)
        try:
            return action()
        finally:
            _enter(home)
    finally:
        os.close(home)


def _enter(namespace: str | int) -> None:
    descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC) if isinstance(namespace, str) else namespace
    try:
        if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"enter network namespace: {os.strerror(code)}", str(namespace))
    finally:
        if isinstance(namespace, str):
            os.close(descriptor)
