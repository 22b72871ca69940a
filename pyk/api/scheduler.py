"""How one finds the scheduler's record of its decisions: a ConfigMap in kube-public has its address (`KEY`)."""

from __future__ import annotations

DECISIONS_NAMESPACE, DECISIONS_ADDRESS, KEY = "kube-public", "kube-scheduler", "address"
SERVER_NAME = "kube-scheduler"
"""The name in the certificate of the scheduler's pages, wherever they are served."""
DECISIONS_PATH = "/debug/decisions"
