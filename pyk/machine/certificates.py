"""The certificates of this machine, as a list: whose they are, what for, and until when."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pyk import csr
from pyk.machine.agent import Folder
from pyk.machine.controlplane import ControlPlane


@dataclass(frozen=True, slots=True)
class Shown:
    """One certificate. `renewed_by` tells who renews it; nobody renews an authority by himself."""

    file: Path
    user: str
    names: tuple[str, ...]
    not_after: float
    renewed_by: str


def of_server(data_dir: Path) -> Iterator[Shown]:
    """Those of a control plane."""
    yield from _below(data_dir / "pki", "pyk server")


def of_agent(data_dir: Path) -> Iterator[Shown]:
    """Those of a node."""
    yield from _below(Folder(data_dir).pki, "pyk agent")


def _below(folder: Path, keeper: str) -> Iterator[Shown]:
    for file in sorted([*folder.rglob("*.crt"), *folder.rglob("*.pem")]):
        held = csr.read(file)
        if held is not None:
            by = "nobody" if file.name == "ca.crt" else keeper
            yield Shown(file, held.common_name, tuple(sorted(held.names)), held.not_after, by)


def renewable(plane: ControlPlane) -> list[Path]:
    """The certificates of a control plane that it can make anew: all but the authorities'."""
    return [shown.file for shown in of_server(plane.data_dir) if shown.renewed_by != "nobody"]
