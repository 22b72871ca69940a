"""The WebSocket sub-protocols of exec and attach, and how frames pass from the client's to the node's.

A frame is a channel number (0 stdin, 1 stdout, 2 stderr, 3 the final `Status`, 4 the terminal's size, 255 the end of a
channel) and its bytes. In the base64 form, which browsers like, the number is a digit and the bytes are base64 text.
Nodes speak `v5.channel.k8s.io` and `v4.channel.k8s.io`. Source: apimachinery `pkg/util/remotecommand`, apiserver
`pkg/util/wsstream`.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

_V5, _V4 = "v5.channel.k8s.io", "v4.channel.k8s.io"
_BASE64_V4 = "v4.base64.channel.k8s.io"


@dataclass(frozen=True, slots=True)
class Codec:
    """A pair of sub-protocols, and the translation of frames between them."""

    client_protocol: str
    node_protocol: str
    is_base64: bool = False

    def encode(self, frame: bytes) -> bytes | str:
        """A frame from the node in the client's form."""
        if not self.is_base64 or not frame:
            return frame
        return f"{frame[0]}{base64.b64encode(frame[1:]).decode()}"

    def decode(self, frame: bytes | str) -> bytes:
        """A frame from the client in the node's form. Raises ValueError when it is not base64 but should be."""
        if self.is_base64:
            text = frame if isinstance(frame, str) else frame.decode()
            return bytes([int(text[:1])]) + base64.b64decode(text[1:], validate=True)
        return frame.encode() if isinstance(frame, str) else frame


_CODECS = {
    _V5: Codec(_V5, _V5),
    _V4: Codec(_V4, _V4),
    _BASE64_V4: Codec(_BASE64_V4, _V4, is_base64=True),
    "": Codec("", _V4),
}
CHANNEL_PROTOCOLS = tuple(protocol for protocol in _CODECS if protocol)


def codec_of(protocol: str) -> Codec | None:
    """How to serve a client's sub-protocol (empty for none); None when it is not served."""
    return _CODECS.get(protocol)
