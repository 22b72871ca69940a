"""Acting as somebody else: the `Impersonate-*` headers, each allowed by the verb `impersonate` on whom it names.

Users and groups are the virtual resources `users` and `groups` of the core group, service accounts their own resource;
`uids` and `userextras/KEY` are in authentication.k8s.io. Whoever asks is checked, the rest of the request is as if the
other had sent it. Source: the Kubernetes documentation on user impersonation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from multidict import CIMultiDictProxy

from controlplane.apiserver.authentication import ALL_AUTHENTICATED, ANONYMOUS, UserInfo, service_account_groups
from controlplane.apiserver.authorization import Attributes, Authorizer
from pyk.api.status import bad_request, forbidden

_USER, _GROUP, _UID, _EXTRA = "Impersonate-User", "Impersonate-Group", "Impersonate-Uid", "impersonate-extra-"
_ACCOUNT_PREFIX = "system:serviceaccount:"


def impersonated(headers: CIMultiDictProxy[str], user: UserInfo, authorizer: Authorizer) -> UserInfo:
    """Who the request counts as: `user`, or whom it names. Raises 400 and 403 `ApiError`."""
    name = headers.get(_USER, "")
    groups = headers.getall(_GROUP, [])
    uid = headers.get(_UID, "")
    extra: dict[str, list[str]] = {}
    for header, value in headers.items():
        if header.lower().startswith(_EXTRA):
            extra.setdefault(unquote(header[len(_EXTRA) :].lower()), []).append(value)
    if not name:
        if groups or uid or extra:
            raise bad_request("requested to impersonate groups, a uid or extra fields without impersonating a user")
        return user
    account = _account_of(name)
    for asked in _asked(name, account, groups, uid, extra):
        attributes = Attributes(user, "impersonate", **asked)
        refusal = authorizer.decide(attributes)
        if refusal is not None:
            raise forbidden(attributes.group, attributes.resource, attributes.name, refusal)
    if account is not None and not groups:
        groups = list(service_account_groups(account[0]))
    if name == ANONYMOUS.name:
        groups = list(dict.fromkeys([*groups, *ANONYMOUS.groups]))
    elif ANONYMOUS.groups[0] not in groups:
        groups = list(dict.fromkeys([*groups, ALL_AUTHENTICATED]))
    return UserInfo(name, uid, tuple(groups), tuple((key, tuple(values)) for key, values in sorted(extra.items())))


def _asked(
    name: str, account: tuple[str, str] | None, groups: list[str], uid: str, extra: dict[str, list[str]]
) -> Iterator[dict[str, Any]]:
    """What has to be allowed."""
    if account is not None:
        yield {"resource": "serviceaccounts", "namespace": account[0], "name": account[1], "version": "v1"}
    else:
        yield {"resource": "users", "name": name, "version": "v1"}
    for group in groups:
        yield {"resource": "groups", "name": group, "version": "v1"}
    authentication = {"group": "authentication.k8s.io", "version": "v1"}
    if uid:
        yield {"resource": "uids", "name": uid, **authentication}
    for key, values in extra.items():
        for value in values:
            yield {"resource": "userextras", "subresource": key, "name": value, **authentication}


def _account_of(name: str) -> tuple[str, str] | None:
    """The namespace and name of a service account's user name."""
    if not name.startswith(_ACCOUNT_PREFIX):
        return None
    namespace, _, account = name.removeprefix(_ACCOUNT_PREFIX).partition(":")
    return (namespace, account) if namespace and account and ":" not in account else None
