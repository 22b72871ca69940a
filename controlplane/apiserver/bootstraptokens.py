"""Whose a bootstrap token is: the bearer of a Secret in `kube-system`, until it expires or is deleted.

The Secret is looked up at each request, in the watch cache, which answers that there is none only after it has caught
up. Source: `plugin/pkg/auth/authenticator/token/bootstrap`.
"""

from __future__ import annotations

import hmac

from controlplane.apiserver.authentication import ALL_AUTHENTICATED, UserInfo
from controlplane.apiserver.watchcache import WatchCache
from pyk.api.bootstraptokens import AUTHENTICATION, SECRET_NAMESPACE, SECRET_PREFIX, split_token, token_of
from pyk.api.kinds import SECRET
from pyk.api.objects import is_deleting
from pyk.reconcile.clock import Clock


class BootstrapTokens:
    """Verifies bearer tokens of the form `ID.SECRET`."""

    def __init__(self, cache: WatchCache, clock: Clock) -> None:
        self._cache = cache
        self._clock = clock

    async def owner_of(self, token: str) -> UserInfo | None:
        """Who bears the token; None when it is no good bootstrap token."""
        parts = split_token(token)
        if parts is None:
            return None
        name = f"{SECRET_PREFIX}{parts[0]}"
        secret = self._cache.lookup(SECRET, SECRET_NAMESPACE, name)
        if secret is None:
            await self._cache.catch_up()
            secret = self._cache.lookup(SECRET, SECRET_NAMESPACE, name)
        if secret is None or is_deleting(secret):
            return None
        found = token_of(secret)
        if found is None or not hmac.compare_digest(found.secret.encode(), parts[1].encode()):
            return None
        if found.is_expired(self._clock.time()) or AUTHENTICATION not in found.usages:
            return None
        return UserInfo(found.user, groups=(*found.groups, ALL_AUTHENTICATED))
