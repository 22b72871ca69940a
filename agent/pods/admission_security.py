"""Whether this node takes what a pod asks of its kernel: sysctls and AppArmor. A pure check, with the kubelet's words.

Sysctls of a namespace that reach no further than the pod are safe (Kubernetes' list); others only run where the node's
administrator has named them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.pods.admission import Rejection
from pyk.api.objects import Object
from pyk.api.sysctls import SAFE_SYSCTLS

UNCONFINED = "Unconfined"


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """`unsafe_sysctls` are names, or beginnings that end in `*`, that pods may set here beside the safe ones.
    `apparmor` says whether the kernel has it on, `profiles` which of its profiles are loaded."""

    unsafe_sysctls: Sequence[str] = ()
    apparmor: bool = False
    profiles: frozenset[str] = frozenset()


def admit_security(pod: Object, facts: KernelFacts) -> Rejection | None:
    """None when the node takes the pod, else the first reason against it."""
    context = pod["spec"].get("securityContext") or {}
    for sysctl in context.get("sysctls") or ():
        name = str(sysctl["name"]).replace("/", ".")
        if name not in SAFE_SYSCTLS and not _is_named(name, facts.unsafe_sysctls):
            return Rejection("SysctlForbidden", f'forbidden sysctl: "{name}" not allowlisted')
    for profile in _profiles(pod):
        if profile.get("type") in (None, UNCONFINED):
            continue
        if not facts.apparmor:
            return Rejection("AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host")
        local = profile.get("localhostProfile")
        if profile["type"] == "Localhost" and local not in facts.profiles:
            return Rejection("AppArmor", f'Cannot enforce AppArmor: profile "{local}" is not loaded')
    return None


def _profiles(pod: Object) -> Iterator[Mapping[str, Any]]:
    spec = pod["spec"]
    holders: Iterable[Mapping[str, Any]] = [spec, *(spec.get("initContainers") or ()), *spec["containers"]]
    for holder in holders:
        if profile := (holder.get("securityContext") or {}).get("appArmorProfile"):
            yield profile


def _is_named(name: str, named: Iterable[str]) -> bool:
    return any(name.startswith(one[:-1]) if one.endswith("*") else name == one for one in named)
