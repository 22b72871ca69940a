"""`pyk install` and `pyk uninstall`: have systemd run the control plane or the agent on this machine."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyk.errors import UserError
from pyk.lab.up import need_root
from pyk.machine import install
from pyk.machine import options as machine_options
from pyk.machine.options import AgentOptions, ServerOptions


def register(subparsers: Any) -> None:
    """Add the commands."""
    for command, run, text in (
        ("install", run_install, "have systemd run the control plane or the agent"),
        ("uninstall", run_uninstall, "take that back"),
    ):
        parser = subparsers.add_parser(command, help=text)
        whats = parser.add_subparsers(metavar="WHAT", required=True, dest="what")
        for what, options in (("server", ServerOptions), ("agent", AgentOptions)):
            chosen = whats.add_parser(what, help=f"the {'control plane' if what == 'server' else 'agent'}")
            chosen.add_argument("--root", type=Path, default=Path("/"), metavar="DIR", help="another system's root")
            if command == "install":
                machine_options.add_options(chosen, options)
                chosen.add_argument("--dry-run", action="store_true", help="print the files, write nothing")
                chosen.add_argument("--no-start", action="store_true", help="write the files, start nothing now")
                chosen.add_argument("--program", metavar="PATH", help="the pyk command to run (default: this one)")
            else:
                chosen.add_argument("--keep-data", action="store_true", help="leave the data folder")
            chosen.set_defaults(run=run)


def run_install(arguments: argparse.Namespace) -> int:
    """Write the unit and the options, and start it."""
    root = arguments.root.absolute()
    given = (
        machine_options.given(ServerOptions, arguments)
        if arguments.what == "server"
        else machine_options.given(AgentOptions, arguments)
    )
    found = install.plan(arguments.what, given, root, arguments.program or install.own_program())
    if arguments.dry_run:
        for path, (content, _) in found.files.items():
            print(f"# {path}\n{content}")
        return 0
    need_root("pyk install")
    install.apply(found, root, print, start=not arguments.no_start)
    return 0


def run_uninstall(arguments: argparse.Namespace) -> int:
    """Stop it and remove it."""
    need_root("pyk uninstall")
    install.remove(
        arguments.what,
        arguments.root.absolute(),
        print,
        keep_data=arguments.keep_data,
        end_containers=_end_containers,
        leave=_leave,
    )
    return 0


def _leave(data_dir: Path, tell: Callable[[str], None]) -> None:
    from pyk.machine.server import leave

    leave(data_dir, tell)


def _end_containers(options: AgentOptions) -> None:
    """A machine that is no node any more must not run them."""
    from pyk.lab.cgroups import LabCgroups
    from pyk.lab.teardown import end_spawners, unmount_below
    from pyk.machine.agent import known_settings
    from pyk.machine.network import remove_network

    try:
        cgroups = LabCgroups.detect()
        end_spawners(Path(options.data_dir))
        cgroups.kill(options.cgroup_root)
        unmount_below(Path(options.data_dir))
        cgroups.remove(options.cgroup_root)
        remove_network(known_settings(Path(options.data_dir)))
    except OSError as error:
        raise UserError(f"the node's containers and their network cannot be removed: {error}") from None
