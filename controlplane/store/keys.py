"""Key ranges: what "every key under a prefix" means as a half-open interval.

Keys are ordered by their UTF-8 bytes, which is the order of their code points, in Python, SQLite and etcd alike.
"""

from __future__ import annotations

_LAST_CODE_POINT = 0x10FFFF
_SURROGATES = range(0xD800, 0xE000)


def prefix_end(prefix: str) -> str | None:
    """The smallest key behind every key that starts with `prefix`; None when there is no such bound."""
    while prefix:
        successor = ord(prefix[-1]) + 1
        if successor <= _LAST_CODE_POINT:
            if successor in _SURROGATES:
                successor = _SURROGATES.stop
            return prefix[:-1] + chr(successor)
        prefix = prefix[:-1]
    return None


def first_key(prefix: str, after_key: str | None) -> str:
    """The smallest key that a listing of `prefix` behind `after_key` could hold."""
    if after_key is None:
        return prefix
    return max(prefix, after_key + "\0")
