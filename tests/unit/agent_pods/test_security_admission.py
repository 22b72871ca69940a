"""What of a pod's wishes of the kernel a node refuses, and with which words."""

from __future__ import annotations

from typing import Any

import pytest

from agent.pods.admission_security import KernelFacts, admit_security


def pod(sysctls: dict[str, str] | None = None, profile: dict[str, Any] | None = None) -> dict[str, Any]:
    context = {"sysctls": [{"name": name, "value": value} for name, value in (sysctls or {}).items()]}
    container: dict[str, Any] = {"name": "c"}
    if profile is not None:
        container["securityContext"] = {"appArmorProfile": profile}
    return {"spec": {"securityContext": context, "containers": [container]}}


@pytest.mark.parametrize("name", ["kernel.shm_rmid_forced", "net.ipv4.tcp_syncookies", "net/ipv4/ping_group_range"])
def test_safe_sysctls_are_taken(name: str) -> None:
    assert admit_security(pod({name: "1"}), KernelFacts()) is None


def test_unsafe_sysctls_need_the_administrator_s_word() -> None:
    unsafe = pod({"kernel.msgmax": "65536"})
    refused = admit_security(unsafe, KernelFacts())
    assert refused is not None
    assert (refused.reason, refused.why) == ("SysctlForbidden", 'forbidden sysctl: "kernel.msgmax" not allowlisted')
    assert admit_security(unsafe, KernelFacts(unsafe_sysctls=("kernel.msg*",))) is None
    assert admit_security(unsafe, KernelFacts(unsafe_sysctls=("kernel.msgmax",))) is None
    assert admit_security(unsafe, KernelFacts(unsafe_sysctls=("kernel.msg",))) is not None


@pytest.mark.parametrize(
    ("profile", "facts", "message"),
    [
        ({"type": "RuntimeDefault"}, KernelFacts(), "AppArmor is not enabled on the host"),
        ({"type": "RuntimeDefault"}, KernelFacts(apparmor=True), None),
        ({"type": "Unconfined"}, KernelFacts(), None),
        ({"type": "Localhost", "localhostProfile": "x"}, KernelFacts(apparmor=True), 'profile "x" is not loaded'),
        ({"type": "Localhost", "localhostProfile": "x"}, KernelFacts(apparmor=True, profiles=frozenset({"x"})), None),
    ],
)
def test_apparmor_profiles_must_be_there(profile: dict[str, Any], facts: KernelFacts, message: str | None) -> None:
    refused = admit_security(pod(profile=profile), facts)
    assert (refused.why if refused else None) == (message and f"Cannot enforce AppArmor: {message}")
