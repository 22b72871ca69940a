"""Files of environment variables in a pod's volumes, which an init container may have written (`env[].fileKeyRef`).

A line is `NAME=value` or `NAME='value'`; between single quotes everything stands for itself, line ends too. Blank lines
and lines that begin with `#` say nothing. Source: KEP-3721 and the Kubernetes page on environment variables from files.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from agent.runtime.syscalls import open_in_root

_LARGEST_FILE = 1 << 20

ReadFile = Callable[[str, str], str | None]
"""The text of a file in a volume, by the volume's name and the file's path in it; None when there is none."""


class BadFile(Exception):
    """The file is no file of variables; the text is for people."""


def variable_in(text: str, key: str) -> str | None:
    """The value of the first definition of `key`; None when there is none. Raises `BadFile`."""
    rest = text
    while rest:
        line, _, rest = rest.partition("\n")
        line = line.rstrip("\r")
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals:
            raise BadFile(f"invalid environment variable format: {line}")
        if value.startswith("'"):
            value, rest = _quoted(value[1:], rest)
        if name.strip() == key:
            return value
    return None


def _quoted(begun: str, rest: str) -> tuple[str, str]:
    """The value that goes on to the next single quote, and what follows its line."""
    value, quote, _ = begun.partition("'")
    while not quote:
        if not rest:
            raise BadFile("a single quote is not closed")
        line, _, rest = rest.partition("\n")
        more, quote, _ = line.partition("'")
        value += "\n" + more
    return value, rest


def read_in_volume(volume: Path, path: str) -> str | None:
    """The text of a file in a volume, whose links do not lead out of it; None when it is not there."""
    root = os.open(volume, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = open_in_root(root, os.fsencode(path), os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    finally:
        os.close(root)
    with os.fdopen(fd, "rb") as file:
        return file.read(_LARGEST_FILE).decode("utf-8", "surrogateescape")
