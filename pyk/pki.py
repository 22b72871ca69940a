"""The cluster's certificates: one authority, and a certificate for everyone who speaks on the API.

In come folders and identities; out go PEM files: `ca.crt` and `ca.key`, a certificate and key per identity, the
service account key pair `sa.key`/`sa.pub`, the administrator's bearer token in `tokens.csv`, and kubeconfig files.
Keys are EC P-256; the authority lives ten years, what it signs one year. A certificate's common name is the
user and its organizations are the user's groups, as Kubernetes reads client certificates.

Guarantees: keys, tokens and kubeconfigs are mode 0600 in folders of mode 0700; every file appears whole or not at all
(written aside, then renamed), and a pair whose writing was interrupted lacks its certificate and is made again. Calling
an `ensure_` function twice changes nothing, unless a certificate nears its end, lacks an address or name, or was signed
by another authority: then that certificate is made anew.
`cryptography` is imported when first needed, because the command line has no use for it.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import secrets
import tempfile
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from pyk.api.scheduler import SERVER_NAME
from pyk.api.signers import BACKDATE_SECONDS, alternative_names, parse_request
from pyk.reconcile.clock import Clock, RealClock

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

CA_LIFETIME = timedelta(days=3650)
LEAF_LIFETIME = timedelta(days=365)
RENEW_BEFORE = timedelta(days=60)
"""A leaf certificate with less than this left is replaced by the `ensure_` functions."""
_CLOCK_SKEW = timedelta(seconds=BACKDATE_SECONDS)
_KEY_USAGES = {
    "signing": "digital_signature",
    "digital signature": "digital_signature",
    "content commitment": "content_commitment",
    "key encipherment": "key_encipherment",
    "data encipherment": "data_encipherment",
    "key agreement": "key_agreement",
    "cert sign": "key_cert_sign",
    "crl sign": "crl_sign",
    "encipher only": "encipher_only",
    "decipher only": "decipher_only",
}
"""The usages of the Kubernetes API that are bits of a key's usage (RFC 5280, 4.2.1.3), as `cryptography` calls them."""
_PURPOSES = {
    "any": "2.5.29.37.0",
    "server auth": "1.3.6.1.5.5.7.3.1",
    "client auth": "1.3.6.1.5.5.7.3.2",
    "code signing": "1.3.6.1.5.5.7.3.3",
    "email protection": "1.3.6.1.5.5.7.3.4",
    "s/mime": "1.3.6.1.5.5.7.3.4",
    "ipsec end system": "1.3.6.1.5.5.7.3.5",
    "ipsec tunnel": "1.3.6.1.5.5.7.3.6",
    "ipsec user": "1.3.6.1.5.5.7.3.7",
    "timestamping": "1.3.6.1.5.5.7.3.8",
    "ocsp signing": "1.3.6.1.5.5.7.3.9",
    "microsoft sgc": "1.3.6.1.4.1.311.10.3.3",
    "netscape sgc": "2.16.840.1.113730.4.1",
}
"""Those that are purposes beside it (RFC 5280, 4.2.1.12)."""
_REAL_CLOCK = RealClock()


def create_ca(directory: Path | str, common_name: str = "kubernetes", *, clock: Clock = _REAL_CLOCK) -> None:
    """Make `ca.crt` and `ca.key` in the folder, replacing what is there."""
    from cryptography import x509

    folder = _folder(directory)
    key = _new_key()
    name = _name(common_name, ())
    now = _now(clock)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_key_usage(is_authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, _sha256())
    )
    _write_pair(folder / "ca", certificate, key)


def issue(
    ca_dir: Path | str,
    common_name: str,
    *,
    organizations: Sequence[str] = (),
    ip_addresses: Iterable[str] = (),
    dns_names: Iterable[str] = (),
    usages: Sequence[str] = ("client",),
    path_prefix: Path | str,
    clock: Clock = _REAL_CLOCK,
) -> None:
    """Sign a certificate with the authority in `ca_dir`; writes `<path_prefix>.crt` and `<path_prefix>.key`.

    `usages` is made of `client` and `server`. Raises FileNotFoundError when there is no authority.
    """
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    authority, authority_key = _load_ca(Path(ca_dir))
    key = _new_key()
    now = _now(clock)
    purposes = {"client": ExtendedKeyUsageOID.CLIENT_AUTH, "server": ExtendedKeyUsageOID.SERVER_AUTH}
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(common_name, organizations))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(min(now + LEAF_LIFETIME, authority.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(is_authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purposes[usage] for usage in usages]), critical=False)
        .add_extension(_authority_identifier(authority), critical=False)
    )
    alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in dict.fromkeys(dns_names)]
    alternatives += [x509.IPAddress(ipaddress.ip_address(address)) for address in dict.fromkeys(ip_addresses)]
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    prefix = Path(path_prefix)
    _folder(prefix.parent)
    _write_pair(prefix, builder.sign(authority_key, _sha256()), key)


def ensure(
    ca_dir: Path | str,
    common_name: str,
    *,
    organizations: Sequence[str] = (),
    ip_addresses: Sequence[str] = (),
    dns_names: Sequence[str] = (),
    usages: Sequence[str] = ("client",),
    path_prefix: Path,
    clock: Clock = _REAL_CLOCK,
) -> bool:
    """Sign as `issue` does, unless there is a certificate that is good: whether it was signed anew."""
    if _is_pair(path_prefix) and _still_good(Path(ca_dir), path_prefix, ip_addresses, dns_names, clock):
        return False
    issue(
        ca_dir,
        common_name,
        organizations=organizations,
        ip_addresses=ip_addresses,
        dns_names=dns_names,
        usages=usages,
        path_prefix=path_prefix,
        clock=clock,
    )
    return True


def ensure_cluster_pki(pki_dir: Path | str, *, server_addresses: Iterable[str], clock: Clock = _REAL_CLOCK) -> None:
    """Make whatever is missing of the control plane's files in `pki_dir`.

    `ca`, `apiserver` (server certificate for `server_addresses`, which may be IP addresses or host names, besides
    localhost and the names of the `kubernetes` Service), `scheduler-server` (of the scheduler's pages),
    `apiserver-kubelet-client`, the clients `admin`, `controller-manager` and `scheduler`, `sa.key`/`sa.pub` and
    `tokens.csv`.
    """
    folder = _folder(pki_dir)
    if not _is_pair(folder / "ca"):
        create_ca(folder, clock=clock)
    ip_addresses, dns_names = _split_addresses(["127.0.0.1", "::1", "localhost", *server_addresses])
    dns_names += ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
    ensure(
        folder,
        "kube-apiserver",
        ip_addresses=ip_addresses,
        dns_names=dns_names,
        usages=("server",),
        path_prefix=folder / "apiserver",
        clock=clock,
    )
    ensure(
        folder,
        SERVER_NAME,
        ip_addresses=["127.0.0.1"],
        dns_names=[SERVER_NAME, "localhost"],
        usages=("server",),
        path_prefix=folder / "scheduler-server",
        clock=clock,
    )
    for file, user, groups in (
        ("apiserver-kubelet-client", "kube-apiserver-kubelet-client", ("system:masters",)),
        ("admin", "kubernetes-admin", ("system:masters",)),
        ("controller-manager", "system:kube-controller-manager", ()),
        ("scheduler", "system:kube-scheduler", ()),
    ):
        ensure(folder, user, organizations=groups, path_prefix=folder / file, clock=clock)
    if not (folder / "sa.pub").exists() or not (folder / "sa.key").exists():
        _write_service_account_keys(folder)
    if not (folder / "tokens.csv").exists():
        # Columns of Kubernetes' static token file: token, user, uid, groups.
        row = f'{secrets.token_urlsafe(32)},kubernetes-admin,kubernetes-admin,"system:masters"\n'
        write_private(folder / "tokens.csv", row.encode())


def ensure_node_pki(
    ca_dir: Path | str,
    node_pki_dir: Path | str,
    node_name: str,
    addresses: Iterable[str],
    *,
    clock: Clock = _REAL_CLOCK,
) -> None:
    """Make whatever is missing of a node's files in `node_pki_dir`.

    `ca.crt`; `kubelet` (server certificate of the node API for `addresses` and the node's name), `client`
    (the user `system:node:NAME` of the group `system:nodes`), and `network` (the user `system:kube-proxy`: the node's
    network follows what the node itself may not read, the other nodes).
    """
    authority, folder = Path(ca_dir), _folder(node_pki_dir)
    certificate = (authority / "ca.crt").read_bytes()
    if not (folder / "ca.crt").exists() or (folder / "ca.crt").read_bytes() != certificate:
        write_whole(folder / "ca.crt", certificate, mode=0o644)
    ip_addresses, dns_names = _split_addresses([*addresses, node_name])
    user, groups = f"system:node:{node_name}", ("system:nodes",)
    ensure(
        authority,
        user,
        organizations=groups,
        ip_addresses=ip_addresses,
        dns_names=dns_names,
        usages=("server",),
        path_prefix=folder / "kubelet",
        clock=clock,
    )
    ensure(authority, user, organizations=groups, path_prefix=folder / "client", clock=clock)
    ensure(authority, "system:kube-proxy", path_prefix=folder / "network", clock=clock)


class RequestSigner:
    """Signs PKCS#10 requests with the authority whose certificate and key are in the two files.

    Raises OSError when one cannot be read, and ValueError or TypeError when it is no certificate or no EC key.
    """

    def __init__(self, certificate_file: Path | str, key_file: Path | str) -> None:
        self._authority, self._key = _load_authority(Path(certificate_file), Path(key_file))

    def sign(self, request: str, usages: Sequence[str], not_before: float, not_after: float) -> bytes:
        """A certificate as PEM, with the request's subject and names.

        `request` is base64 of PEM; `usages` are those of the Kubernetes API; times are seconds since the epoch, the end
        at most the authority's own. Raises `BadRequest` for a request that is none.
        """
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import Encoding

        asked = parse_request(request)
        end = min(datetime.fromtimestamp(int(not_after), UTC), self._authority.not_valid_after_utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(asked.subject)
            .issuer_name(self._authority.subject)
            .public_key(asked.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime.fromtimestamp(int(not_before), UTC))
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_authority_identifier(self._authority), critical=False)
        )
        if any(usage in _KEY_USAGES for usage in usages):
            builder = builder.add_extension(_requested_key_usage(usages), critical=True)
        purposes = [x509.ObjectIdentifier(_PURPOSES[usage]) for usage in usages if usage in _PURPOSES]
        if purposes:
            builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        if any(alternative_names(asked)):
            names = asked.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            builder = builder.add_extension(names.value, critical=names.critical)
        return builder.sign(self._key, _sha256()).public_bytes(Encoding.PEM)


def write_kubeconfig(
    path: Path | str,
    server: str,
    ca: Path | str,
    certificate: Path | str | None = None,
    key: Path | str | None = None,
    *,
    token: str = "",
    user: str = "kubernetes-admin",
    cluster: str = "pyk",
    namespace: str = "",
    embed: bool = True,
) -> None:
    """Write a kubeconfig with one cluster, user and context, mode 0600, its files embedded as base64.

    With `embed` false the certificate and key are named only, so that whoever uses it sees them renewed.
    `server` is a URL. The user shows a client certificate (`certificate` and `key` are files) or a bearer `token`.
    """
    identity = {"token": token} if token else {}
    if certificate is not None and key is not None:
        identity = {"client-certificate-data": _embedded(certificate), "client-key-data": _embedded(key), **identity}
        if not embed:
            identity = {
                "client-certificate": str(Path(certificate).absolute()),
                "client-key": str(Path(key).absolute()),
            }
    context = {"cluster": cluster, "user": user} | ({"namespace": namespace} if namespace else {})
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster, "cluster": {"server": server, "certificate-authority-data": _embedded(ca)}}],
        "users": [{"name": user, "user": identity}],
        "contexts": [{"name": cluster, "context": context}],
        "current-context": cluster,
        "preferences": {},
    }
    file = Path(path)
    if not file.parent.exists():
        _folder(file.parent)
    write_private(file, yaml.safe_dump(document, sort_keys=False).encode())


def write_private(path: Path, data: bytes) -> None:
    """Write the file whole or not at all, readable by its owner only."""
    write_whole(path, data, mode=0o600)


def write_whole(path: Path, data: bytes, *, mode: int) -> None:
    """Write the file whole or not at all: a reader sees the old content or the new one."""
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, mode)
            file.write(data)
            file.flush()
            os.fsync(handle)
        os.replace(aside, path)
    except BaseException:
        os.unlink(aside)
        raise


def _now(clock: Clock) -> datetime:
    return datetime.fromtimestamp(int(clock.time()), UTC)


def _folder(path: Path | str) -> Path:
    folder = Path(path)
    if not folder.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)  # mkdir's mode is cut by the umask and ignored when another process was first
    return folder


def _embedded(path: Path | str) -> str:
    return base64.b64encode(Path(path).read_bytes()).decode()


def _split_addresses(addresses: Iterable[str]) -> tuple[list[str], list[str]]:
    ip_addresses: list[str] = []
    dns_names: list[str] = []
    for address in addresses:
        try:
            ip_addresses.append(str(ipaddress.ip_address(address)))
        except ValueError:
            dns_names.append(address)
    return ip_addresses, dns_names


def _new_key() -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _sha256() -> hashes.SHA256:
    from cryptography.hazmat.primitives import hashes

    return hashes.SHA256()


def _name(common_name: str, organizations: Sequence[str]) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in organizations]
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_usage(*, is_authority: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_identifier(authority: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    from cryptography import x509

    subject = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject.value)


def _load_ca(folder: Path) -> tuple[x509.Certificate, EllipticCurvePrivateKey]:
    return _load_authority(folder / "ca.crt", folder / "ca.key")


def _requested_key_usage(usages: Sequence[str]) -> x509.KeyUsage:
    from cryptography import x509

    wanted = {_KEY_USAGES[usage] for usage in usages if usage in _KEY_USAGES}
    return x509.KeyUsage(**{field: field in wanted for field in dict.fromkeys(_KEY_USAGES.values())})


def _load_authority(certificate_file: Path, key_file: Path) -> tuple[x509.Certificate, EllipticCurvePrivateKey]:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
    key = load_pem_private_key(key_file.read_bytes(), password=None)
    if not isinstance(key, EllipticCurvePrivateKey):
        raise TypeError(f"{key_file} is not an EC key")
    return certificate, key


def _is_pair(prefix: Path) -> bool:
    return prefix.with_name(f"{prefix.name}.crt").exists() and prefix.with_name(f"{prefix.name}.key").exists()


def _write_pair(prefix: Path, certificate: x509.Certificate, key: EllipticCurvePrivateKey) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    # The old certificate goes first: a pair without one is made again, halves that differ would pass for a pair.
    certificate_path = prefix.with_name(f"{prefix.name}.crt")
    certificate_path.unlink(missing_ok=True)
    write_private(prefix.with_name(f"{prefix.name}.key"), pem)
    write_whole(certificate_path, certificate.public_bytes(Encoding.PEM), mode=0o644)


def _still_good(
    ca_dir: Path, prefix: Path, ip_addresses: Sequence[str], dns_names: Sequence[str], clock: Clock
) -> bool:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    authority = x509.load_pem_x509_certificate((ca_dir / "ca.crt").read_bytes())
    certificate = x509.load_pem_x509_certificate(prefix.with_name(f"{prefix.name}.crt").read_bytes())
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError):
        return False
    if certificate.not_valid_after_utc - _now(clock) < RENEW_BEFORE:
        return False
    if not ip_addresses and not dns_names:
        return True
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    present = {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    return present >= set(ip_addresses) and set(names.get_values_for_type(x509.DNSName)) >= set(dns_names)


def _write_service_account_keys(folder: Path) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = _new_key()
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    write_private(folder / "sa.key", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    write_whole(folder / "sa.pub", public, mode=0o644)
