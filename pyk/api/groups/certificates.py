"""Requests for certificates (certificates.k8s.io)."""

from __future__ import annotations

from pyk.api.kind import Kind

GROUP = "certificates.k8s.io"

KINDS = (
    Kind(
        GROUP,
        "v1",
        "CertificateSigningRequest",
        "certificatesigningrequests",
        "certificates:CertificateSigningRequest",
        namespaced=False,
        short_names=("csr",),
        rules_path="rules.certificates:RULES",
        has_status=True,
        subresources=("approval",),
        name_check="path_segment",
    ),
)
