"""Which Kubernetes this speaks, and which pyk it is."""

from __future__ import annotations

import platform

from pyk import __version__

KUBERNETES_VERSION = f"v1.36.0+pyk{__version__}"
"""As `/version` and a Node's `kubeletVersion` tell it."""


def version_info() -> dict[str, str]:
    """The body of `/version`."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return {
        "major": "1",
        "minor": "36",
        "gitVersion": KUBERNETES_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": f"python{platform.python_version()}",
        "compiler": platform.python_implementation(),
        "platform": f"{platform.system().lower()}/{machine}",
    }
