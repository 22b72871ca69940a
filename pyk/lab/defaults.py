"""The options of a cluster from what was said, what is on record, and what is usual."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pyk.errors import UserError
from pyk.lab.layout import DEFAULT_NAME, Options, prefix_of
from pyk.lab.state import ClusterState, is_ours

READY_SECONDS = 60.0
"""How long `pyk up` gives a cluster's nodes to become Ready."""


def with_defaults(given: dict[str, Any], home: Path) -> Options:
    """The options as given, else as on record of the cluster in the data folder, else the defaults.

    `given` has None for what was not said.
    """
    said = {key: value for key, value in given.items() if value is not None}
    name = str(said.get("name") or DEFAULT_NAME)
    data_dir = Path(said.get("data_dir") or default_data_dir(name)).absolute()
    before = ClusterState.load(data_dir) if is_ours(data_dir) else None
    if before is not None and before.options.name != name and "name" in said:
        raise UserError(
            f"{data_dir} has the cluster {before.options.name}: leave --name out, or give another --data-dir"
        )
    base = before.options if before is not None else Options()
    if before is not None and "store" in said and said["store"] != base.store:
        raise UserError(
            f"{data_dir} has a cluster with --store {base.store}: take it down first, or use another folder"
        )
    options = replace(base, **{**said, "data_dir": str(data_dir)})
    kubeconfig = options.kubeconfig or str(default_kubeconfig(options.name, home))
    return replace(options, kubeconfig=str(Path(kubeconfig).absolute()))


def default_data_dir(name: str) -> Path:
    return Path("/var/lib") / prefix_of(name)


def default_kubeconfig(name: str, home: Path) -> Path:
    """`~/.pyk/kubeconfig` for the cluster of the default name, `~/.pyk/NAME.kubeconfig` for others."""
    return home / ".pyk" / ("kubeconfig" if name == DEFAULT_NAME else f"{name}.kubeconfig")
