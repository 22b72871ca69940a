"""What requests for certificates are made of: Kubernetes' own signers, key usages, and the PEM that they carry.

Shared by the API server, which checks requests, and by the loops that approve and sign them. Sources: the Kubernetes
documentation on certificate signing requests; `pkg/apis/certificates` (`ParseCSR`, `ValidateKubeletClientCSR`,
`ValidateKubeletServingCSR`) and `pkg/controller/certificates/signer`; RFC 5280 for the usages.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pyk.api.objects import Object

if TYPE_CHECKING:
    from cryptography import x509

API_CLIENT = "kubernetes.io/kube-apiserver-client"
KUBELET_CLIENT = "kubernetes.io/kube-apiserver-client-kubelet"
KUBELET_SERVING = "kubernetes.io/kubelet-serving"
LEGACY_UNKNOWN = "kubernetes.io/legacy-unknown"
SIGNERS = (API_CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY_UNKNOWN)

BACKDATE_SECONDS = 300
"""How long before its making a certificate begins to be good: clocks differ."""
NODE_PREFIX, NODES_GROUP = "system:node:", "system:nodes"
USAGES = (
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
)
"""Every usage that a request may name, in the order of their names."""


class BadRequest(ValueError):
    """The request is none that its signer signs; the text says why, in Kubernetes' words."""


def parse_request(request: str) -> x509.CertificateSigningRequest:
    """The PKCS#10 request in a `spec.request` (base64 of PEM). Raises `BadRequest`."""
    from cryptography import x509

    pem = base64.b64decode(request)
    begin = pem.find(b"-----BEGIN ")
    if begin < 0 or not pem[begin:].startswith(b"-----BEGIN CERTIFICATE REQUEST-----"):
        raise BadRequest("PEM block type must be CERTIFICATE REQUEST")
    try:
        return x509.load_pem_x509_csr(pem[begin:])
    except ValueError as error:
        raise BadRequest(f"x509: malformed certificate request: {error}") from None


def common_name(request: x509.CertificateSigningRequest) -> str:
    """The subject's common name; empty when it has none."""
    return next(iter(_subject(request, "2.5.4.3")), "")


def organizations(request: x509.CertificateSigningRequest) -> list[str]:
    """The subject's organizations, which are groups of users."""
    return list(_subject(request, "2.5.4.10"))


def _subject(request: x509.CertificateSigningRequest, dotted: str) -> Iterator[str]:
    return (str(attribute.value) for attribute in request.subject if attribute.oid.dotted_string == dotted)


def alternative_names(request: x509.CertificateSigningRequest) -> tuple[list[str], list[str], list[str], list[str]]:
    """DNS names, IP addresses, e-mail addresses and URIs that the request asks for. Raises `BadRequest`."""
    from cryptography import x509

    try:
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return [], [], [], []
    except ValueError as error:
        raise BadRequest(f"x509: invalid subject alternative names: {error}") from None
    return (
        names.get_values_for_type(x509.DNSName),
        [str(address) for address in names.get_values_for_type(x509.IPAddress)],
        names.get_values_for_type(x509.RFC822Name),
        names.get_values_for_type(x509.UniformResourceIdentifier),
    )


def check_for_signer(request: x509.CertificateSigningRequest, usages: Sequence[str], signer: str) -> None:
    """Whether one of Kubernetes' signers may sign it. Raises `BadRequest` with what is wrong."""
    if signer == API_CLIENT:
        _check_client_usages(usages)
    elif signer == KUBELET_CLIENT:
        _check_node(request)
        for found, what in zip(alternative_names(request), ("DNS", "IP", "Email", "URI"), strict=True):
            if found:
                raise BadRequest(f"{what} subjectAltNames are not allowed")
        _check_usages(usages, ("client auth", "digital signature", "key encipherment"))
    elif signer == KUBELET_SERVING:
        _check_node(request)
        dns, addresses, mails, uris = alternative_names(request)
        if not dns and not addresses:
            raise BadRequest("DNS or IP subjectAltName is required")
        if mails:
            raise BadRequest("Email subjectAltNames are not allowed")
        if uris:
            raise BadRequest("URI subjectAltNames are not allowed")
        _check_usages(usages, ("digital signature", "key encipherment", "server auth"))


def _check_node(request: x509.CertificateSigningRequest) -> None:
    if organizations(request) != [NODES_GROUP]:
        raise BadRequest("subject organization is not system:nodes")
    if not common_name(request).startswith(NODE_PREFIX):
        raise BadRequest("subject common name does not begin with system:node:")


def _check_usages(usages: Sequence[str], required: Sequence[str]) -> None:
    # An elliptic curve key enciphers no keys.
    if set(usages) not in (set(required), set(required) - {"key encipherment"}):
        raise BadRequest(f"usages did not match [{' '.join(required)}]")


def _check_client_usages(usages: Sequence[str]) -> None:
    for usage in usages:
        if usage not in ("digital signature", "key encipherment", "client auth"):
            raise BadRequest(f"invalid usage for client certificate: {usage}")
    if "client auth" not in usages:
        raise BadRequest("missing required usage for client certificate: client auth")


def is_true(request: Object, kind: str) -> bool:
    """Whether a request has the condition: `Approved`, `Denied` or `Failed`, which are never anything but true."""
    return any(each["type"] == kind for each in (request.get("status") or {}).get("conditions") or ())


def certificate_of(request: Object) -> str:
    """The certificate that was issued, as base64 of PEM; empty while there is none."""
    return str((request.get("status") or {}).get("certificate") or "")
