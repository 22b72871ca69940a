"""Checks of the security contexts of pods and containers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pyk.api.rules.common import MAX_INT32, check_choice, check_range, check_required, check_unique, some
from pyk.api.status import FieldError

Document = dict[str, Any]

_PROFILES = ("Localhost", "RuntimeDefault", "Unconfined")
_SYSCTL = re.compile(r"([a-z0-9]([-_a-z0-9]*[a-z0-9])?[./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?\Z")


def check_security_context(context: Document | None, spec: Document, path: str) -> Iterator[FieldError]:
    """A container's security context."""
    if not context:
        return
    yield from _check_identity(context, path)
    privileged = bool(context.get("privileged"))
    if context.get("allowPrivilegeEscalation") is False:
        if privileged:
            detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"
            yield FieldError.invalid(path, context, detail)
        elif "CAP_SYS_ADMIN" in ((context.get("capabilities") or {}).get("add") or ()):
            detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"
            yield FieldError.invalid(path, context, detail)
    yield from check_choice(context, path, "procMount", ("Default", "Unmasked"))
    if context.get("procMount") == "Unmasked" and spec.get("hostUsers") is not False:
        detail = "`hostUsers` must be false to use `Unmasked`"
        yield FieldError.invalid(f"{path}.procMount", "Unmasked", detail)


def check_pod_security_context(spec: Document, path: str) -> Iterator[FieldError]:
    """A pod's security context, and what its spec says of sharing the host's namespaces; `path` is the spec's."""
    context = spec.get("securityContext") or {}
    where = f"{path}.securityContext"
    yield from _check_identity(context, where)
    yield from check_range(f"{where}.fsGroup", context.get("fsGroup"), 0, MAX_INT32)
    for index, group in enumerate(context.get("supplementalGroups") or ()):
        yield from check_range(f"{where}.supplementalGroups[{index}]", group, 0, MAX_INT32)
    yield from check_choice(context, where, "supplementalGroupsPolicy", ("Merge", "Strict"))
    yield from check_choice(context, where, "fsGroupChangePolicy", ("Always", "OnRootMismatch"))
    yield from check_choice(context, where, "seLinuxChangePolicy", ("MountOption", "Recursive"))
    yield from _check_sysctls(some(context, "sysctls"), spec, f"{where}.sysctls")
    if spec.get("shareProcessNamespace") and spec.get("hostPID"):
        detail = "ShareProcessNamespace and HostPID cannot both be enabled"
        yield FieldError.invalid(f"{path}.shareProcessNamespace", True, detail)
    if spec.get("hostUsers") is False:
        for field in ("hostNetwork", "hostPID", "hostIPC"):
            if spec.get(field):
                yield FieldError.forbidden(f"{path}.{field}", "when `hostUsers` is false")


def _check_identity(context: Document, path: str) -> Iterator[FieldError]:
    for field in ("runAsUser", "runAsGroup"):
        yield from check_range(f"{path}.{field}", context.get(field), 0, MAX_INT32)
    yield from _check_profile(context.get("seccompProfile"), f"{path}.seccompProfile", "seccomp")
    yield from _check_profile(context.get("appArmorProfile"), f"{path}.appArmorProfile", "AppArmor")


def _check_profile(profile: Document | None, path: str, what: str) -> Iterator[FieldError]:
    if profile is None:
        return
    yield from check_choice(profile, path, "type", _PROFILES, is_required=True)
    local = profile.get("localhostProfile")
    if profile["type"] == "Localhost":
        if not local:
            yield FieldError.required(f"{path}.localhostProfile", f"must be set when {what} type is Localhost")
        elif local.startswith("/") or ".." in local.split("/"):
            problem = "must be a relative path" if local.startswith("/") else "must not contain '..'"
            yield FieldError.invalid(f"{path}.localhostProfile", local, problem)
    elif local is not None:
        detail = f"can only be set when {what} type is Localhost"
        yield FieldError.invalid(f"{path}.localhostProfile", local, detail)


def _check_sysctls(sysctls: list[Document], spec: Document, path: str) -> Iterator[FieldError]:
    for index, sysctl in enumerate(sysctls):
        where = f"{path}[{index}].name"
        name = sysctl["name"]
        yield from check_required(sysctl, f"{path}[{index}]", "name")
        if name and (len(name) > 253 or _SYSCTL.match(name) is None):
            detail = (
                "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*"
                "[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"
            )
            yield FieldError.invalid(where, name, detail)
        if name.startswith("net.") and spec.get("hostNetwork"):
            yield FieldError.invalid(where, name, "may not be specified when 'hostNetwork' is true")
        if name.startswith(("kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue.")) and spec.get("hostIPC"):
            yield FieldError.invalid(where, name, "may not be specified when 'hostIPC' is true")
    yield from check_unique(path, sysctls, "name")
