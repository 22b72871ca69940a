"""Who we are by TLS: the certificate for the name that a client asks for, from Secrets of type kubernetes.io/tls.

An Ingress names hosts and a Secret of its namespace in `spec.tls`; an entry without hosts is for those of its rules.
The client's name (SNI) chooses: exactly named hosts go before wildcards. Everybody else is shown the default
certificate, which is that of `--default-certificate`, or one that is made and signed here and that no client trusts. A
Secret that is missing or does not hold a pair that fits is told of (`problems`) and counts as none. A change is used by
the next connection.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import hashlib
import logging
import os
import ssl
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ingress.routes import hostname
from pyk.api.objects import Object, name_of, namespace_of
from pyk.reconcile.clock import Clock

log = logging.getLogger(__name__)

TLS_SECRET = "kubernetes.io/tls"
_OWN_DAYS = 365

GetSecret = Callable[[str], Object | None]


class BadCertificate(Exception):
    """A certificate and key that cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The Secret, as `namespace/name`, that hosts of an Ingress are to be served with."""

    ingress: str
    secret: str
    hosts: tuple[str, ...]


def wanted_by(ingress: Object) -> Iterator[Wanted]:
    """What the `spec.tls` of an Ingress asks for."""
    spec, namespace = ingress.get("spec") or {}, namespace_of(ingress)
    for entry in spec.get("tls") or ():
        if entry.get("secretName"):
            hosts = entry.get("hosts") or [rule["host"] for rule in spec.get("rules") or () if rule.get("host")]
            named = tuple(host.lower() for host in hosts)
            yield Wanted(f"{namespace}/{name_of(ingress)}", f"{namespace}/{entry['secretName']}", named)


def pair_in(secret: Object) -> tuple[bytes, bytes]:
    """The certificate chain and the key of a Secret, as PEM. Raises `BadCertificate`."""
    data = secret.get("data") or {}
    try:
        chain, key = (base64.b64decode(data[name], validate=True) for name in ("tls.crt", "tls.key"))
    except KeyError as error:
        raise BadCertificate(f"it has no key {error}") from None
    except binascii.Error:
        raise BadCertificate("its data is not base64") from None
    return chain, key


def make_context(chain: bytes, key: bytes) -> ssl.SSLContext:
    """TLS as a server with that certificate: version 1.2 and above. Raises `BadCertificate`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # `ssl` reads key pairs from files only; this one has no name and nobody else can open it.
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    with open(descriptor, "wb", buffering=0) as file:
        file.write(chain.rstrip() + b"\n" + key)
        try:
            context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            raise BadCertificate(f"certificate and key cannot be used: {error}") from None
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted")


class Certificates:
    """The certificates in use. `listener` is the context to listen with; it leads each connection to the right one."""

    def __init__(self, clock: Clock, default_secret: str = "") -> None:
        self._default_secret = default_secret
        self._made: dict[str, tuple[bytes, ssl.SSLContext]] = {}
        self._by_host: dict[str, ssl.SSLContext] = {}
        self._default = self._own = make_context(*own_pair(clock))
        self.problems: dict[str, dict[str, str]] = {}
        """What is wrong with Secrets, by Ingress and Secret."""
        self.listener = make_context(*own_pair(clock))
        self.listener.sni_callback = self._choose

    def update(self, ingresses: Iterable[Object], get_secret: GetSecret) -> None:
        """Use what the Ingresses, the oldest first, and Secrets say now."""
        wanted = [each for ingress in ingresses for each in wanted_by(ingress)]
        found: dict[str, ssl.SSLContext | str] = {}
        for name in {each.secret for each in wanted} | ({self._default_secret} - {""}):
            found[name] = self._context_of(name, get_secret(name))
        self._made = {name: made for name, made in self._made.items() if name in found}
        self._by_host, self.problems = {}, {}
        for each in wanted:
            context = found[each.secret]
            if isinstance(context, str):
                self.problems.setdefault(each.ingress, {})[each.secret] = context
                continue
            for host in each.hosts:
                self._by_host.setdefault(host, context)
        default = found.get(self._default_secret)
        if isinstance(default, str):
            log.warning("the default certificate: secret %s: %s", self._default_secret, default)
        self._default = default if isinstance(default, ssl.SSLContext) else self._own

    def context_for(self, server_name: str | None) -> ssl.SSLContext:
        """The context for the name that a client asks for."""
        name = hostname(server_name or "")
        return self._by_host.get(name) or self._by_host.get(f"*.{name.partition('.')[2]}") or self._default

    def _choose(self, connection: ssl.SSLObject, server_name: str | None, _: ssl.SSLContext) -> None:
        connection.context = self.context_for(server_name)

    def _context_of(self, name: str, secret: Object | None) -> ssl.SSLContext | str:
        """The context of a Secret, made once as long as it stays the same; or what is wrong."""
        if secret is None:
            return "there is no such secret of type kubernetes.io/tls"
        try:
            chain, key = pair_in(secret)
            digest = hashlib.sha256(chain + b"\0" + key).digest()
            known = self._made.get(name)
            if known is None or known[0] != digest:
                known = self._made[name] = digest, make_context(chain, key)
        except BadCertificate as error:
            return str(error)
        return known[1]


def own_pair(clock: Clock) -> tuple[bytes, bytes]:
    """A certificate and key of our own making, that no client trusts."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "pyk ingress: no certificate for this name")])
    now = datetime.datetime.fromtimestamp(clock.time(), datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=_OWN_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("ingress.invalid")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private
