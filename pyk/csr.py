"""Asking a cluster for a certificate: the request, the object that carries it, and the file that keeps the answer.

Used by a machine that joins (`pyk/machine/join.py`) and by an agent that renews (`agent/certificates.py`). A
certificate lies with its key in ONE file, mode 0600, that is replaced whole, as the kubelet's `*-current.pem`: there is
never a certificate beside a key that does not fit. `cryptography` is imported when first needed.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyk import pki
from pyk.api import signers
from pyk.api.kinds import CERTIFICATE_SIGNING_REQUEST
from pyk.api.objects import Object

NODE_USAGES = {
    signers.KUBELET_CLIENT: ("digital signature", "client auth"),
    signers.KUBELET_SERVING: ("digital signature", "server auth"),
}
"""What a node asks for; elliptic curve keys encipher no keys."""


class Refused(Exception):
    """The request was denied or has failed; the text says why."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a certificate says: from when to when it is good, in seconds since the epoch, and for which names."""

    common_name: str
    not_before: float
    not_after: float
    names: frozenset[str]
    issuer_key: bytes
    """The key identifier of the authority that signed it, empty when it tells none."""


def node_user(node: str) -> str:
    return f"{signers.NODE_PREFIX}{node}"


def make_request(node: str, names: Sequence[str] = ()) -> tuple[bytes, str]:
    """A new key as PEM, and a request of the node for it as `spec.request` has it (base64 of PEM).

    `names` are host names and IP addresses.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    attributes = [
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, signers.NODES_GROUP),
        x509.NameAttribute(NameOID.COMMON_NAME, node_user(node)),
    ]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    if names:
        alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
        builder = builder.add_extension(alternatives, critical=False)
    request = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem, base64.b64encode(request).decode()


def request_object(request: str, signer: str) -> Object:
    """The CertificateSigningRequest to create; the API server names it."""
    return {
        "apiVersion": CERTIFICATE_SIGNING_REQUEST.api_version,
        "kind": CERTIFICATE_SIGNING_REQUEST.kind,
        "metadata": {"generateName": "csr-"},
        "spec": {"request": request, "signerName": signer, "usages": list(NODE_USAGES[signer])},
    }


def issued(request: Object) -> bytes:
    """The certificate that the object carries as PEM; empty while there is none. Raises `Refused`."""
    for condition in (request.get("status") or {}).get("conditions") or ():
        if condition["type"] in ("Denied", "Failed"):
            raise Refused(f"{condition['type'].lower()}: {condition.get('message') or condition.get('reason') or '-'}")
    return base64.b64decode(signers.certificate_of(request))


def write(file: Path, certificate: bytes, key: bytes) -> None:
    """Keep the pair, whole or not at all, for its owner only."""
    pki.write_private(file, certificate.rstrip(b"\n") + b"\n" + key)


def read(file: Path) -> Held | None:
    """What the file's certificate says; None when there is no file or none in it."""
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
    except (OSError, ValueError):
        return None
    return held(certificate)


def held(certificate: Any) -> Held:
    """What a `cryptography.x509.Certificate` says."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    names: set[str] = set()
    issuer_key = b""
    for extension in certificate.extensions:
        if isinstance(extension.value, x509.SubjectAlternativeName):
            names.update(extension.value.get_values_for_type(x509.DNSName))
            names.update(str(address) for address in extension.value.get_values_for_type(x509.IPAddress))
        elif isinstance(extension.value, x509.AuthorityKeyIdentifier):
            issuer_key = extension.value.key_identifier or b""
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return Held(
        common_name=str(found[0].value) if found else "",
        not_before=certificate.not_valid_before_utc.timestamp(),
        not_after=certificate.not_valid_after_utc.timestamp(),
        names=frozenset(names),
        issuer_key=issuer_key,
    )


def _general_name(name: str) -> Any:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
