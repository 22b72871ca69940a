"""`pods/NAME/proxy`: which port of a pod is meant, and where its redirects lead to. Pure functions.

The name in the path is `[scheme:]name[:port]`. Source: `pkg/registry/core/pod/strategy.go` (ResourceLocation) and
apimachinery `pkg/util/net` (SplitSchemeNamePort).
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from pyk.api.objects import Object
from pyk.api.rules.common import some
from pyk.api.status import bad_request

UNREACHABLE = "X-Pod-Unreachable"
"""The header of a node's answer when the words are the node's and not the pod's."""


@dataclass(frozen=True, slots=True)
class Target:
    """A pod's name, with the scheme and the port that were asked for; `port` is empty for the pod's first."""

    scheme: str
    name: str
    port: str

    def port_of(self, pod: Object) -> str:
        """The port asked for, else the first that a container declares, else the scheme's."""
        if self.port:
            return self.port
        for container in some(pod["spec"], "containers"):
            for port in some(container, "ports"):
                return str(port["containerPort"])
        return "443" if self.scheme == "https" else "80"


def target_of(text: str) -> Target:
    """The target of `[scheme:]name[:port]`. Raises 400."""
    parts = text.split(":")
    match parts:
        case [name]:
            found = Target("http", name, "")
        case [name, port]:
            found = Target("http", name, port)
        case [scheme, name, port]:
            found = Target(scheme or "http", name, port)
        case _:
            found = Target("", "", "")
    is_port = not found.port or (found.port.isascii() and found.port.isdigit() and 0 < int(found.port) < 65536)
    if not found.name or found.scheme not in ("http", "https") or not is_port:
        raise bad_request(f'invalid pod request "{text[:200]}"')
    return found


def redirect_of(location: str, prefix: str) -> str:
    """Where a pod's redirect leads through the proxy, whose path to the pod's root is `prefix`."""
    parts = urlsplit(location)
    if parts.netloc or not location.startswith("/"):
        return location
    return prefix.rstrip("/") + location
