"""The cluster's authority as others name it: the hash of its public key, as kubeadm's discovery-token-ca-cert-hash."""

from __future__ import annotations

import hashlib


def hash_of(authority: bytes) -> str:
    """SHA-256 of the public key (SubjectPublicKeyInfo, DER) of the PEM certificate, in hexadecimal digits.

    Raises ValueError when it is no certificate.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = x509.load_pem_x509_certificate(authority).public_key()
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
