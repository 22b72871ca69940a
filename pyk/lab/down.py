"""Taking a cluster down for good: `pyk down`."""

from __future__ import annotations

import os
from pathlib import Path

from pyk.errors import UserError
from pyk.lab import kubeconfig as kubeconfigs
from pyk.lab import state as records
from pyk.lab.layout import Layout, Options
from pyk.lab.state import ClusterState
from pyk.lab.teardown import remove_data, sweep
from pyk.lab.up import STOP_SECONDS, Tell, detect_cgroups


def take_down(data_dir: Path, name: str, tell: Tell, *, kubeconfig: Path) -> bool:
    """End and remove everything of a cluster, its data and kubeconfig included: whether there was anything.

    Works from the records and, without them, from the names. Raises `UserError` for a folder that is not ours.
    """
    if data_dir.exists() and not records.is_ours(data_dir) and any(data_dir.iterdir()):
        raise UserError(f"{data_dir} is not a pyk data folder: nothing was removed")
    state = ClusterState.load(data_dir)
    layout = state.layout if state is not None else Layout(Options(name=name, data_dir=str(data_dir)))
    cgroups = detect_cgroups()
    found = records.is_ours(data_dir) or bool(cgroups.children(layout.cgroup))
    if state is not None and (supervisor := state.processes.get("supervisor")) is not None:
        tell("supervisor", "stopping")
        supervisor.end(STOP_SECONDS)
    if records.is_ours(data_dir):
        held = records.lock(data_dir)
        if held is None:
            raise UserError(f"another command is starting the cluster of {data_dir}: try again in a moment")
        os.close(held)
    try:
        sweep(layout, cgroups, tell=lambda step: tell(step, "removing"))
        if records.is_ours(data_dir):
            tell("data", f"removing {data_dir}")
            remove_data(data_dir)
    except OSError as error:
        raise UserError(f"cannot remove everything: {error}") from error
    for file in {kubeconfig, Path(layout.options.kubeconfig or kubeconfig)}:
        kubeconfigs.remove(file, data_dir)
    return found
