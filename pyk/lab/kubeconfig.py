"""The kubeconfig that `pyk up` writes for people: recognised by its mark, and never anybody else's file.

The mark is its first line, and again an `extensions` entry, which stays when `kubectl config` rewrites the file.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import yaml

from pyk import pki
from pyk.errors import UserError
from pyk.lab.layout import Layout
from pyk.lab.state import is_ours

_EXTENSION = "pyk.io/cluster"
_LONGEST = 1 << 20
_HEAD = "# Written by 'pyk up' for the cluster of {data_dir}; 'pyk down' removes it.\n"


def check(layout: Layout) -> None:
    """Raises `UserError` when the file that is to be written is somebody else's, or of another cluster that exists."""
    path = Path(layout.options.kubeconfig)
    owner = owner_of(path)
    if path.exists() and owner != layout.data_dir:
        if owner is None:
            raise UserError(f"{path} was not written by 'pyk up': choose another file with --kubeconfig")
        if is_ours(owner):
            raise UserError(f"{path} belongs to the cluster of {owner}: choose another file with --kubeconfig")


def write(layout: Layout) -> None:
    """Write the administrator's kubeconfig, mode 0600."""
    path, folder = Path(layout.options.kubeconfig), layout.pki_dir
    aside = layout.data_dir / "kubeconfigs" / "admin"
    pki.write_kubeconfig(
        aside,
        layout.server,
        folder / "ca.crt",
        folder / "admin.crt",
        folder / "admin.key",
        cluster=layout.options.name,
    )
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    head = _HEAD.format(data_dir=layout.data_dir)
    extensions = yaml.safe_dump({"extensions": [{"name": _EXTENSION, "extension": {"dataDir": str(layout.data_dir)}}]})
    pki.write_private(path, head.encode() + aside.read_bytes() + extensions.encode())


def owner_of(path: Path) -> Path | None:
    """The data folder of the cluster for which the kubeconfig was written; None when `pyk up` did not write it."""
    before, _, after = _HEAD.partition("{data_dir}")
    try:
        with path.open(errors="replace") as file:
            head = file.readline()
            rest = file.read(_LONGEST)
    except OSError:
        return None
    if head.startswith(before) and head.endswith(after):
        return Path(head[len(before) : -len(after)])
    return _marked(head + rest)


def _marked(text: str) -> Path | None:
    """The data folder in the `extensions` of a kubeconfig that `kubectl config` has rewritten."""
    if _EXTENSION not in text:
        return None
    try:
        found = [
            each["extension"]["dataDir"] for each in yaml.safe_load(text)["extensions"] if each["name"] == _EXTENSION
        ]
    except (yaml.YAMLError, KeyError, TypeError):
        return None
    return Path(found[0]) if found and isinstance(found[0], str) else None


def remove(path: Path, data_dir: Path) -> None:
    """Delete the file if it was written for this cluster, and a `.pyk` folder that is empty then."""
    if owner_of(path) != data_dir:
        return
    path.unlink()
    if path.parent.name == ".pyk":
        with suppress(OSError):  # other clusters' files are in it
            path.parent.rmdir()
