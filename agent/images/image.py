"""What an image is to the agent: its layers on disk and how its configuration says it is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


class ImageUnavailable(Exception):
    """The image cannot be had. `reason` is what the container's status says (`ErrImagePull`,
    `ErrImageNeverPull`, `InvalidImageName`), the text is for people."""

    def __init__(self, message: str, *, reason: str = "ErrImagePull") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """How a container of the image runs when the pod does not say otherwise (the `config` of an OCI image)."""

    environment: Sequence[str] = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",)
    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    working_directory: str = "/"
    user: str = ""
    stop_signal: str = ""

    @staticmethod
    def from_document(config: Mapping[str, Any]) -> ImageConfig:
        """Read an OCI image configuration's `config` object; what it leaves out keeps the defaults."""
        default = ImageConfig()
        return ImageConfig(
            environment=tuple(config.get("Env") or default.environment),
            entrypoint=tuple(config.get("Entrypoint") or ()),
            command=tuple(config.get("Cmd") or ()),
            working_directory=config.get("WorkingDir") or default.working_directory,
            user=config.get("User") or "",
            stop_signal=config.get("StopSignal") or "",
        )

    def to_document(self) -> dict[str, Any]:
        """The OCI form, without what is empty."""
        document = {
            "Env": list(self.environment),
            "Entrypoint": list(self.entrypoint),
            "Cmd": list(self.command),
            "WorkingDir": self.working_directory,
            "User": self.user,
            "StopSignal": self.stop_signal,
        }
        return {key: value for key, value in document.items() if value}


@dataclass(frozen=True, slots=True)
class Image:
    """An image that is here. `name` is the full reference, `id` the digest of its configuration, `layers` its
    unpacked layers, topmost first; `size` is in bytes. `read_only_binds` are host paths that the image shows
    read-only (inside -> host). `digest` is that of its manifest, of an image that came from a registry."""

    name: str
    id: str
    config: ImageConfig
    layers: Sequence[Path]
    size: int = 0
    created_at: float = 0.0
    read_only_binds: Mapping[str, str] = field(default_factory=dict)
    digest: str = ""

    @property
    def repository(self) -> str:
        """The name without tag and digest."""
        bare = self.name.partition("@")[0]
        path, colon, tag = bare.rpartition(":")
        return path if colon and "/" not in tag else bare

    @property
    def image_id(self) -> str:
        """What a container's status carries as `imageID`: repository and digest."""
        return f"{self.repository}@{self.digest or self.id}"


class ImageSource(Protocol):
    """Where images that are not here come from: a registry."""

    async def pull(self, reference: str, credentials: Sequence[Mapping[str, Any]]) -> Image:
        """Fetch the image of a full reference into the store. `credentials` are the contents of the pod's
        imagePullSecrets. Raises `ImageUnavailable`."""
