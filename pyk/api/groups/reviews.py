"""Questions that are answered when they are asked: who am I, may I (authentication.k8s.io, authorization.k8s.io)."""

from __future__ import annotations

from pyk.api.kind import Kind


def _question(module: str, name: str, *, namespaced: bool = False) -> Kind:
    return Kind(
        f"{module}.k8s.io",
        "v1",
        name,
        f"{name.lower()}s",
        f"{module}:{name}",
        namespaced=namespaced,
        verbs=("create",),
    )


KINDS = (
    _question("authentication", "SelfSubjectReview"),
    _question("authentication", "TokenReview"),
    _question("authorization", "SelfSubjectAccessReview"),
    _question("authorization", "SelfSubjectRulesReview"),
    _question("authorization", "SubjectAccessReview"),
    _question("authorization", "LocalSubjectAccessReview", namespaced=True),
)
