"""Which agents go with which server: never a newer one, and none that is more than three minor versions behind.

The rule and its reasons are Kubernetes' (version skew policy): the server is upgraded first, its agents follow one by
one, and their containers run on meanwhile. Versions are as `/version` and a Node tell them: `v1.36.0+pyk0.1.0`.
"""

from __future__ import annotations

import re

from pyk.errors import UserError

MOST_BEHIND = 3
_VERSION = re.compile(r"v(\d+)\.(\d+)\.\d+\+pyk(\d+)\.(\d+)")


class VersionSkew(UserError):
    """This agent and its server do not go together."""


def check(agent: str, server: str) -> None:
    """Raises `VersionSkew` when an agent of the one version must not work for a server of the other."""
    found, wanted = _VERSION.match(agent), _VERSION.match(server)
    if found is None or wanted is None:
        raise VersionSkew(f"the server is of version {server!r}, which is none of pyk: this agent is {agent}")
    (*api, major, minor), (*server_api, server_major, server_minor) = (
        [int(number) for number in match.groups()] for match in (found, wanted)
    )
    if (api, [major, minor]) > (server_api, [server_major, server_minor]):
        raise VersionSkew(f"this agent ({agent}) is newer than its server ({server}): upgrade the server first")
    is_old = api[0] != server_api[0] or server_api[1] - api[1] > MOST_BEHIND
    if is_old or (major == server_major and server_minor - minor > MOST_BEHIND):
        raise VersionSkew(
            f"this agent ({agent}) is more than {MOST_BEHIND} minor versions older than its server ({server}): "
            "upgrade it"
        )
