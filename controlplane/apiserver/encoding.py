"""Objects as bytes: the one form in which they are stored, cached and sent.

A stored value is the object's JSON without its resourceVersion and begins with `{"metadata":{`; the revision that the
store gave it is spliced in behind that prefix, so that no read parses anything.
"""

from __future__ import annotations

from typing import Any

import orjson

from pyk.api.objects import Object

_PREFIX = b'{"metadata":{'
_REVISION = _PREFIX + b'"resourceVersion":"'


def encode(obj: Object) -> bytes:
    """The stored form. `metadata` must hold more than a resourceVersion, which is left out."""
    metadata = obj["metadata"]
    if "resourceVersion" in metadata:
        metadata = {key: value for key, value in metadata.items() if key != "resourceVersion"}
    return orjson.dumps({"metadata": metadata, **{key: value for key, value in obj.items() if key != "metadata"}})


def splice(stored: bytes, revision: int) -> bytes:
    """The wire form of a stored value."""
    return b'%b%d",%b' % (_REVISION, revision, stored[len(_PREFIX) :])


def resplice(wire: bytes, revision: int) -> bytes:
    """The wire form with another resourceVersion, as a deletion is told."""
    return b"%b%d%b" % (_REVISION, revision, wire[wire.index(b'"', len(_REVISION)) :])


def decode(wire: bytes) -> Object:
    """The object of a wire form."""
    obj: Object = orjson.loads(wire)
    return obj


def dumps(document: Any) -> bytes:
    """JSON of anything."""
    return orjson.dumps(document)
