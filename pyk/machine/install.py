"""`pyk install` and `pyk uninstall`: a unit of systemd and a file of options, and nothing else.

What is there and right stays; every change is told in a line. Options that are given again replace those in the file,
the others stay. With another root the files are written below it and nothing is started: that is how an image is made.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyk import pki
from pyk.errors import UserError
from pyk.machine import controlplane, units
from pyk.machine.checks import check_agent, check_server
from pyk.machine.options import (
    AGENT_CONFIG,
    SERVER_CONFIG,
    AgentOptions,
    ServerOptions,
    read_file,
    to_file,
)
from pyk.machine.token import parse

UNIT_DIR = Path("/etc/systemd/system")
_RUNNING_SYSTEMD = Path("/run/systemd/system")
_CONFIGS: Mapping[str, Path] = {"server": SERVER_CONFIG, "agent": AGENT_CONFIG}

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """The files to be there: path (as it is in the installed system) to content and mode."""

    what: str
    unit: str
    files: Mapping[Path, tuple[str, int]]
    options: Mapping[str, Any] = field(default_factory=dict)


def own_program() -> str:
    """The words that start this `pyk`, from anywhere."""
    beside = Path(sys.executable).parent / "pyk"
    return str(beside) if beside.exists() else f"{sys.executable} -m pyk.cli.main"


def plan(what: str, given: Mapping[str, Any], root: Path, program: str) -> Plan:
    """What to write for `server` or `agent` with these options. Raises `UserError` for options that cannot work."""
    config = _CONFIGS[what]
    options: ServerOptions | AgentOptions
    if what == "server":
        values = {**read_file(ServerOptions, _below(root, config)), **given}
        options = ServerOptions(**values)
        record = controlplane.read_record(_below(root, Path(options.data_dir)))
        check_server(controlplane.settled(options, record))
        writable = tuple(dict.fromkeys([str(config.parent), str(Path(options.data_dir).parent)]))
    else:
        values = {**read_file(AgentOptions, _below(root, config)), **given}
        options = AgentOptions(**values)
        check_agent(options)
        if options.token:
            parse(options.token, options.ca_hash)
        elif not _below(root, Path(options.data_dir) / "pki" / "ca.crt").exists():
            raise UserError("--token: make one with 'pyk token create' on the control plane")
        writable = ()
    head = f"# Options of 'pyk {what}'; 'pyk {what} --help' tells them all.\n"
    unit = units.text(what, program, str(config), writable)
    files = {config: (head + to_file(values), 0o600), UNIT_DIR / units.UNITS[what]: (unit, 0o644)}
    return Plan(what, units.UNITS[what], files, values)


def apply(found: Plan, root: Path, tell: Tell, *, start: bool) -> None:
    """Write what is missing or differs, and have systemd know it. Raises `UserError`."""
    changed = False
    for path, (content, mode) in found.files.items():
        changed |= _write(_below(root, path), content, mode, tell)
    if found.what == "server":
        # The unit may write there only if it is there.
        _below(root, Path(str(found.options.get("data_dir", ServerOptions().data_dir))).parent).mkdir(
            mode=0o755, parents=True, exist_ok=True
        )
    link = _below(root, UNIT_DIR / "multi-user.target.wants" / found.unit)
    if not link.is_symlink():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(UNIT_DIR / found.unit)
        tell(f"{found.unit} starts with the machine")
        changed = True
    if root != Path("/") or not start:
        return
    if not _RUNNING_SYSTEMD.exists():
        tell(f"systemd does not run here: nothing is started; by hand, 'pyk {found.what}' does the same")
        return
    is_active = _systemctl("is-active", "--quiet", found.unit, check=False) == 0
    if not changed and is_active:
        tell(f"pyk {found.what} is installed and runs; nothing to change")
        return
    _systemctl("daemon-reload")
    _systemctl("restart" if is_active else "start", found.unit)
    tell(f"{found.unit} {'restarted' if is_active else 'started'}; its log: journalctl -u {found.unit}")


def remove(
    what: str,
    root: Path,
    tell: Tell,
    *,
    keep_data: bool,
    end_containers: Callable[[AgentOptions], None],
    leave: Callable[[Path, Tell], None],
) -> None:
    """Stop the unit and remove it, its options and, unless they are to be kept, its data. Raises `UserError`.

    `end_containers` is called when the agent has ended, for its containers outlive it; `leave` before the server ends,
    for an etcd member that only stopped would be waited for.
    """
    unit, config = units.UNITS[what], _CONFIGS[what]
    options = (
        ServerOptions(**read_file(ServerOptions, _below(root, config)))
        if what == "server"
        else AgentOptions(**read_file(AgentOptions, _below(root, config)))
    )
    if what == "server" and root == Path("/") and not keep_data:
        leave(Path(options.data_dir), tell)
    if root == Path("/") and _RUNNING_SYSTEMD.exists():
        _systemctl("disable", "--now", unit, check=False)
    data = _below(root, Path(options.data_dir))
    if isinstance(options, AgentOptions) and root == Path("/"):
        end_containers(options)
    gone = False
    paths = [UNIT_DIR / "multi-user.target.wants" / unit, UNIT_DIR / unit, config]
    paths += [Path(options.kubeconfig)] if isinstance(options, ServerOptions) else []
    for path in (_below(root, path) for path in paths):
        if path.is_symlink() or path.exists():
            path.unlink()
            tell(f"{path} removed")
            gone = True
    if data.exists() and not keep_data:
        shutil.rmtree(data)
        tell(f"{data} removed")
        gone = True
    elif data.exists():
        tell(f"{data} stays")
    if root == Path("/") and _RUNNING_SYSTEMD.exists():
        _systemctl("daemon-reload")
    if not gone:
        tell(f"pyk {what} is not installed here")


def _write(path: Path, content: str, mode: int, tell: Tell) -> bool:
    try:
        is_new = not path.exists()
        if not is_new and path.read_text() == content and path.stat().st_mode & 0o777 == mode:
            tell(f"{path} is right already")
            return False
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        pki.write_whole(path, content.encode(), mode=mode)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    tell(f"{path} {'written' if is_new else 'changed'}")
    return True


def _below(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def _systemctl(*words: str, check: bool = True) -> int:
    done = subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False, env=os.environ)
    if check and done.returncode != 0:
        raise UserError(f"systemctl {' '.join(words)}: {done.stderr.strip().splitlines()[-1:] or done.returncode}")
    return done.returncode
