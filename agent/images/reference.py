"""Image references: `busybox`, `registry:5000/team/app:1.2`, `app@sha256:...`, and their full form.

Source: the reference grammar of the OCI distribution specification and Docker's "familiar names": a first
component without a dot, a colon and that is not `localhost` is no host, so `busybox` is
`docker.io/library/busybox:latest`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DEFAULT_HOST = "docker.io"
DEFAULT_TAG = "latest"

_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*\Z")
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::\d+)?\Z")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")
_DIGEST = re.compile(r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[0-9a-fA-F]{32,}\Z")


class BadReference(ValueError):
    """The text is no image reference."""

    def __init__(self, text: str, why: str) -> None:
        super().__init__(f'couldn\'t parse image name "{text}": invalid reference format: {why}')
        self.text = text


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed reference. With a `digest`, `tag` may be empty."""

    host: str
    path: str
    tag: str
    digest: str

    @property
    def repository(self) -> str:
        """`docker.io/library/busybox`."""
        return f"{self.host}/{self.path}"

    @property
    def name(self) -> str:
        """The full form: repository, then tag and digest where given."""
        return self.repository + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    @property
    def is_latest(self) -> bool:
        """Whether the default pull policy is Always: the tag is `latest` and no digest is given."""
        return self.tag == DEFAULT_TAG and not self.digest


def parse_reference(text: str) -> Reference:
    """The reference that a pod's `image` means. Raises `BadReference`."""
    rest, _, digest = text.partition("@")
    if "@" in text and not _DIGEST.match(digest):
        raise BadReference(text, "the digest must look like sha256:<64 hex digits>")
    first, slash, after = rest.partition("/")
    is_host = bool(slash) and ("." in first or ":" in first or first == "localhost" or first != first.lower())
    host, remainder = (first, after) if is_host else (DEFAULT_HOST, rest)
    path, colon, tag = remainder.partition(":")
    if colon and not _TAG.match(tag):
        raise BadReference(text, f"{tag!r} is not a tag")
    if not _HOST.match(host):
        raise BadReference(text, f"{host!r} is not a registry host")
    if not path or not all(_COMPONENT.match(component) for component in path.split("/")):
        raise BadReference(text, "a repository is lower-case words joined by . _ - and /")
    if len(host) + 1 + len(path) > 255:
        raise BadReference(text, "the repository must not be longer than 255 characters")
    if host == DEFAULT_HOST and "/" not in path:
        path = f"library/{path}"
    return Reference(host, path, tag or ("" if digest else DEFAULT_TAG), digest)
