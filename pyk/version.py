"""Which Kubernetes this speaks, and which pyk it is."""

from __future__ import annotations

from pyk import __version__

KUBERNETES_VERSION = f"v1.36.0+pyk{__version__}"
"""As `/version` and a Node's `kubeletVersion` tell it."""
