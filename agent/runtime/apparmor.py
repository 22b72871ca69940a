"""AppArmor, where the kernel has it: what is loaded, and the profile that containers get when their pod says nothing.

The default profile is of the kind that Docker and containerd have: everything but mounts, writes to the kernel's files
in /proc and /sys, and tracing others. Debian's `apparmor_parser` loads it. Blocks; called at the agent's start and, for
the list of profiles, when a pod asks for one.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

DEFAULT_PROFILE = "pyk-default"
_ENABLED = Path("/sys/module/apparmor/parameters/enabled")
_LOADED = Path("/sys/kernel/security/apparmor/profiles")
_SECONDS = 30

_TEXT = f"""
#include <tunables/global>
profile {DEFAULT_PROFILE} flags=(attach_disconnected,mediate_deleted) {{
  #include <abstractions/base>
  network,
  capability,
  file,
  umount,
  signal (receive) peer=unconfined,
  signal (send,receive) peer={DEFAULT_PROFILE},
  ptrace (trace,read,tracedby,readby) peer={DEFAULT_PROFILE},
  deny @{{PROC}}/* w,
  deny @{{PROC}}/{{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9]*}}/** w,
  deny @{{PROC}}/sys/[^k]** w,
  deny @{{PROC}}/sys/kernel/{{?,??,[^s][^h][^m]**}} w,
  deny @{{PROC}}/sysrq-trigger rwklx,
  deny @{{PROC}}/kcore rwklx,
  deny mount,
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}}
"""


def is_enabled() -> bool:
    """Whether the kernel confines by AppArmor."""
    try:
        return _ENABLED.read_text().strip() == "Y" and _LOADED.exists()
    except OSError:
        return False


def loaded_profiles() -> frozenset[str]:
    """The names of the loaded profiles."""
    try:
        lines = _LOADED.read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(line.rpartition(" (")[0] for line in lines)


def load_default() -> str:
    """Load the default profile unless it is there: empty, or why it could not be."""
    if DEFAULT_PROFILE in loaded_profiles():
        return ""
    parser = shutil.which("apparmor_parser", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if parser is None:
        return "apparmor_parser is not installed: install Debian's apparmor"
    done = subprocess.run(
        [parser, "--replace", "--skip-cache"],
        input=_TEXT,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    return "" if done.returncode == 0 else done.stderr.strip()
