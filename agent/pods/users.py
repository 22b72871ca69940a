"""Who a container runs as: numbers from the pod's security context and the image's user, passwd and group files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agent.images.image import Image
from agent.pods.environment import ConfigError
from agent.runtime.syscalls import open_in_root
from pyk.api.objects import Object, name_of, namespace_of, uid_of

_LARGEST_FILE = 1 << 20


@dataclass(frozen=True, slots=True)
class User:
    """Numeric ids of a process, and the home directory of its user."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def security_value(pod: Object, container: Mapping[str, Any], field: str) -> Any:
    """A field that the container's security context overrides and the pod's gives otherwise."""
    own = (container.get("securityContext") or {}).get(field)
    return own if own is not None else (pod["spec"].get("securityContext") or {}).get(field)


def resolve_user(pod: Object, container: Mapping[str, Any], image: Image) -> User:
    """Raises `ConfigError` when the image does not know the user, or it is root and must not be. Reads the image."""
    wanted = security_value(pod, container, "runAsUser")
    text = image.config.user if wanted is None else str(wanted)
    user_text, _, group_text = text.partition(":")
    accounts = list(_lines(image, b"etc/passwd", 6))
    account = next((a for a in accounts if user_text in ((a[2],) if user_text.isdigit() else (a[0],))), None)
    if user_text.isdigit():
        uid = int(user_text)
    elif not user_text:
        uid = 0
        account = next((a for a in accounts if a[2] == "0"), None)
    elif account is not None:
        uid = int(account[2])
    else:
        raise ConfigError(f"unable to find user {user_text}: no matching entries in passwd file")
    _check_not_root(pod, container, uid, user_text if wanted is None else "")
    groups = list(_lines(image, b"etc/group", 3))
    gid = _group(pod, container, group_text, account, groups)
    context = pod["spec"].get("securityContext") or {}
    more = list(context.get("supplementalGroups") or ())
    if context.get("fsGroup") is not None:
        more.append(context["fsGroup"])
    if context.get("supplementalGroupsPolicy") != "Strict" and account is not None:
        more += [int(g[2]) for g in groups if len(g) > 3 and account[0] in g[3].split(",") and g[2].isdigit()]
    return User(uid, gid, tuple(dict.fromkeys([gid, *more])), account[5] if account is not None else "/")


def _group(
    pod: Object,
    container: Mapping[str, Any],
    text: str,
    account: list[str] | None,
    groups: list[list[str]],
) -> int:
    if (wanted := security_value(pod, container, "runAsGroup")) is not None:
        return int(wanted)
    if text.isdigit():
        return int(text)
    if text:
        for group in groups:
            if group[0] == text:
                return int(group[2])
        raise ConfigError(f"unable to find group {text}: no matching entries in group file")
    return int(account[3]) if account is not None and account[3].isdigit() else 0


def _check_not_root(pod: Object, container: Mapping[str, Any], uid: int, image_user: str) -> None:
    if not security_value(pod, container, "runAsNonRoot"):
        return
    where = f'(pod: "{name_of(pod)}_{namespace_of(pod)}({uid_of(pod)})", container: {container["name"]})'
    if image_user and not image_user.isdigit():
        raise ConfigError(
            f"container has runAsNonRoot and image has non-numeric user ({image_user}), cannot verify user is non-root "
            + where
        )
    if uid == 0:
        asked = security_value(pod, container, "runAsUser") is not None
        what = "container's runAsUser breaks non-root policy" if asked else (
            "container has runAsNonRoot and image will run as root"
        )  # fmt: skip
        raise ConfigError(f"{what} {where}")


def _lines(image: Image, path: bytes, fields: int) -> Iterator[list[str]]:
    """The lines of a file of the image with at least so many fields. Links in the image do not lead out of it."""
    for layer in image.layers:
        root = os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            continue
        finally:
            os.close(root)
        with os.fdopen(fd, "rb") as file:
            content = file.read(_LARGEST_FILE)
        for line in content.decode(errors="replace").splitlines():
            parts = line.split(":")
            if len(parts) >= fields and not line.startswith("#"):
                yield parts
        return
