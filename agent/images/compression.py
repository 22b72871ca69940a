"""Compressed layers: find out by its first bytes how a file is packed, and read what is in it.

gzip and zstd are what the OCI image specification has; bzip2 and xz are what people's own archives come in. The names
of media types are not trusted: registries and old tools mix them up.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import zlib
from typing import IO, cast

_CHUNK = 1 << 20


def decompressed(file: IO[bytes]) -> IO[bytes]:
    """The content of the seekable file from its beginning, whatever it is packed with. It is to be closed by the
    caller; the file itself stays open."""
    file.seek(0)
    magic = file.read(6)
    file.seek(0)
    if magic[:2] == b"\x1f\x8b":
        return cast(IO[bytes], gzip.GzipFile(fileobj=file))
    if magic[:4] == b"\x28\xb5\x2f\xfd" or (magic[1:4] == b"\x2a\x4d\x18" and magic[0] & 0xF0 == 0x50):
        import zstandard

        reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True, closefd=False)
        return cast(IO[bytes], io.BufferedReader(reader, _CHUNK))
    if magic[:3] == b"BZh":
        return cast(IO[bytes], bz2.BZ2File(file))
    if magic == b"\xfd7zXZ\x00":
        return cast(IO[bytes], lzma.LZMAFile(file))
    return cast(IO[bytes], io.BufferedReader(_Borrowed(file), _CHUNK))


class DamagedStream(ValueError):
    """The packed content cannot be read."""


class Hashing(io.RawIOBase):
    """Reads through to another stream, and tells the sha256 and the length of all that was read. Raises
    `DamagedStream`."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()
        self.length = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        try:
            data = self._stream.read(size)
        except (EOFError, zlib.error, lzma.LZMAError) as error:
            raise DamagedStream(str(error)) from error
        except OSError as error:
            if error.errno is not None:  # the disk's fault
                raise
            raise DamagedStream(str(error)) from error
        except Exception as error:
            if type(error).__module__.partition(".")[0] != "zstandard":
                raise
            raise DamagedStream(str(error)) from error
        self._hash.update(data)
        self.length += len(data)
        return data

    def drain(self, most_bytes: int) -> bool:
        """Read the rest; whether it was no more than `most_bytes`."""
        left = most_bytes
        while data := self.read(_CHUNK):
            left -= len(data)
            if left < 0:
                return False
        return True

    @property
    def digest(self) -> str:
        """`sha256:` and the hash of what was read."""
        return f"sha256:{self._hash.hexdigest()}"


class _Borrowed(io.RawIOBase):
    """A file that somebody else closes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
