"""The words of joining a cluster of several machines: what a joined machine finds in the API, and how it tells itself.

The control plane publishes what every agent has to know in one ConfigMap; a machine that joins reads it as the
bearer of its token, an agent as its node. A Node carries which machine registered it, so that two of one name are told
apart. A machine that was removed may still hold a certificate: which are void is in another ConfigMap.
"""

from __future__ import annotations

from collections.abc import Mapping

SETTINGS_NAMESPACE, SETTINGS = "kube-system", "pyk-config"
"""The ConfigMap with the cluster's ranges and names, under the names of the agent's options."""
INSTALLATION = "pyk.io/installation"
"""The annotation of a Node that tells which machine registered it: a random text that the machine keeps."""
REMOVED_NAMESPACE, REMOVED = "kube-system", "pyk-removed-nodes"
"""The ConfigMap that has, by node, the moment (seconds since the epoch) up to which its certificates are void."""
SERVERS_GROUP = "system:bootstrappers:pyk:control-plane"
"""The extra group of tokens with which a machine joins the control plane."""


def voided_until(removed: Mapping[str, str], node: str) -> float:
    """Certificates of the node that were made up to this moment are void; 0 when none are."""
    try:
        return float(removed.get(node) or 0)
    except ValueError:
        return 0.0
