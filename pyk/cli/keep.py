"""`pyk backup`, `pyk restore` and `pyk cert`: keeping a control plane and its certificates."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pyk.errors import UserError
from pyk.machine import options as machine_options
from pyk.machine.options import SERVER_CONFIG, AgentOptions, ServerOptions
from pyk.reconcile.clock import RealClock, timestamp

_DAY = 86400.0


def register(subparsers: Any) -> None:
    """Add the commands."""
    backup = subparsers.add_parser("backup", help="write this control plane's state and keys to a file")
    backup.add_argument("file", type=Path, metavar="FILE")
    _add_data_dir(backup, ServerOptions().data_dir)
    backup.set_defaults(run=run_backup)

    restore = subparsers.add_parser("restore", help="make a control plane from such a file")
    restore.add_argument("file", type=Path, metavar="FILE")
    restore.add_argument("--config", type=Path, default=SERVER_CONFIG, metavar="FILE", help="options of the server")
    restore.add_argument("--force", action="store_true", help="put aside what is in the data folder")
    machine_options.add_options(restore, ServerOptions)
    restore.set_defaults(run=run_restore)

    cert = subparsers.add_parser("cert", help="the certificates of this machine")
    actions = cert.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="whose they are, and until when")
    listing.add_argument("--data-dir", type=Path, metavar="DIR", help="of a server or an agent (default: both)")
    listing.set_defaults(run=run_list)
    renew = actions.add_parser("renew", help="make the control plane's anew, now")
    _add_data_dir(renew, ServerOptions().data_dir)
    renew.set_defaults(run=run_renew)


def _add_data_dir(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--data-dir", type=Path, default=Path(default), metavar="DIR", help=f"default {default}")


def run_backup(arguments: argparse.Namespace) -> int:
    """Take a backup; the server may run."""
    from pyk.machine import backup, controlplane

    plane = controlplane.load(arguments.data_dir.absolute())
    manifest = backup.take(plane, arguments.file.absolute(), RealClock())
    print(f"{arguments.file}: {plane.record.store} at revision {manifest.revision}; it has the cluster's keys in it")
    return 0


def run_restore(arguments: argparse.Namespace) -> int:
    """Make a control plane from a backup."""
    from pyk.machine import backup

    values = machine_options.read_file(ServerOptions, arguments.config)
    options = ServerOptions(**{**values, **machine_options.given(ServerOptions, arguments)})
    manifest = backup.restore(arguments.file.absolute(), options, RealClock(), print, force=arguments.force)
    print(f"{options.data_dir}: restored as of {manifest.taken}; start it with 'pyk server' or 'pyk install server'")
    if manifest.record["store"] == "etcd":
        print("its etcd has one member: other control planes join it again, with an empty --data-dir")
    return 0


def run_list(arguments: argparse.Namespace) -> int:
    """Show the certificates."""
    from pyk.machine import certificates

    now = RealClock().time()
    if arguments.data_dir is not None:
        folders = [arguments.data_dir.absolute()]
    else:
        folders = [Path(ServerOptions().data_dir), Path(AgentOptions().data_dir)]
    shown: list[certificates.Shown] = []
    for folder in folders:
        is_agent = (folder / "installation").exists()
        shown += certificates.of_agent(folder) if is_agent else certificates.of_server(folder)
    if not shown:
        raise UserError(f"there are no certificates below {', '.join(map(str, folders))}")
    rows = [("USER", "EXPIRES", "DAYS", "RENEWED BY", "FILE")]
    for each in sorted(shown, key=lambda one: one.not_after):
        days = "expired" if each.not_after <= now else f"{(each.not_after - now) / _DAY:.0f}"
        rows.append((each.user, timestamp(each.not_after), days, each.renewed_by, str(each.file)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("   ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    return 0


def run_renew(arguments: argparse.Namespace) -> int:
    """Make the control plane's certificates anew; what runs shows them from its next connection on."""
    from pyk.machine import certificates, controlplane

    plane = controlplane.load(arguments.data_dir.absolute())
    for file in certificates.renewable(plane):
        file.unlink()
    controlplane.write_files(plane, RealClock())
    for each in certificates.of_server(plane.data_dir):
        if each.renewed_by != "nobody":
            print(f"{each.file} is good until {timestamp(each.not_after)}")
    if plane.has_member:
        print("the API server's certificate for etcd is used from the server's next start on")
    return 0
