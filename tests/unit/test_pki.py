"""The cluster's certificates: who they name, whom they serve, how files are kept, when they are made anew."""

from __future__ import annotations

import csv
import shutil
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pyk import pki
from pyk.reconcile.clock import VirtualClock


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cluster") / "pki"
    pki.ensure_cluster_pki(folder, server_addresses=["10.88.7.1", "lab.example"])
    return folder


def test_private_files_are_readable_by_their_owner_only(cluster: Path) -> None:
    assert cluster.stat().st_mode & 0o777 == 0o700
    private = [*cluster.glob("*.key"), cluster / "tokens.csv"]
    assert len(private) >= 7
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in private} == dict.fromkeys(
        (path.name for path in private), "0o600"
    )
    assert not list(cluster.glob(".*")), "no temporary file stays"


def test_the_authority_lives_ten_years_and_may_sign(cluster: Path) -> None:
    authority = certificate(cluster / "ca.crt")
    lifetime = authority.not_valid_after_utc - authority.not_valid_before_utc
    assert 3640 < lifetime.days < 3660
    assert authority.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_the_server_certificate_names_every_address_of_the_server(cluster: Path) -> None:
    server = certificate(cluster / "apiserver.crt")
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"10.88.7.1", "127.0.0.1"} <= {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    assert {"localhost", "lab.example", "kubernetes.default.svc"} <= set(names.get_values_for_type(x509.DNSName))
    usage = server.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert (server.not_valid_after_utc - server.not_valid_before_utc).days == 365


@pytest.mark.parametrize(
    ("file", "user", "groups"),
    [
        ("admin", "kubernetes-admin", ["system:masters"]),
        ("apiserver-kubelet-client", "kube-apiserver-kubelet-client", ["system:masters"]),
        ("controller-manager", "system:kube-controller-manager", []),
        ("scheduler", "system:kube-scheduler", []),
    ],
)
def test_client_certificates_carry_user_and_groups(cluster: Path, file: str, user: str, groups: list[str]) -> None:
    subject = certificate(cluster / f"{file}.crt").subject
    assert [a.value for a in subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == [user]
    assert [a.value for a in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)] == groups


def test_the_administrators_token_is_long_and_in_system_masters(cluster: Path) -> None:
    [[token, user, uid, groups]] = list(csv.reader((cluster / "tokens.csv").read_text().splitlines()))
    assert len(token) >= 40
    assert (user, uid, groups) == ("kubernetes-admin", "kubernetes-admin", "system:masters")


def test_a_second_call_changes_nothing(cluster: Path) -> None:
    before = {path.name: path.read_bytes() for path in cluster.iterdir()}
    pki.ensure_cluster_pki(cluster, server_addresses=["10.88.7.1", "lab.example"])
    assert {path.name: path.read_bytes() for path in cluster.iterdir()} == before


def test_a_new_address_renews_the_server_certificate_only(cluster: Path, tmp_path: Path) -> None:
    copy = tmp_path / "pki"
    shutil.copytree(cluster, copy)
    pki.ensure_cluster_pki(copy, server_addresses=["10.88.7.1", "10.88.8.1"])
    changed = {path.name for path in copy.iterdir() if path.read_bytes() != (cluster / path.name).read_bytes()}
    assert changed == {"apiserver.crt", "apiserver.key"}


def test_a_certificate_near_its_end_is_renewed(cluster: Path, tmp_path: Path) -> None:
    copy = tmp_path / "pki"
    shutil.copytree(cluster, copy)
    later = VirtualClock(start=time.time() + 330 * 86400)
    pki.ensure_cluster_pki(copy, server_addresses=[], clock=later)
    old, new = certificate(cluster / "admin.crt"), certificate(copy / "admin.crt")
    assert (new.not_valid_after_utc - old.not_valid_after_utc).days in (329, 330)
    assert (copy / "ca.crt").read_bytes() == (cluster / "ca.crt").read_bytes()


def test_a_new_authority_renews_everything_that_the_old_one_signed(cluster: Path, tmp_path: Path) -> None:
    copy = tmp_path / "pki"
    shutil.copytree(cluster, copy)
    pki.create_ca(copy)
    pki.ensure_cluster_pki(copy, server_addresses=[])
    certificate(copy / "admin.crt").verify_directly_issued_by(certificate(copy / "ca.crt"))


def test_a_pair_without_certificate_is_made_again(cluster: Path, tmp_path: Path) -> None:
    copy = tmp_path / "pki"
    shutil.copytree(cluster, copy)
    (copy / "admin.crt").unlink()
    pki.ensure_cluster_pki(copy, server_addresses=[])
    certificate(copy / "admin.crt").verify_directly_issued_by(certificate(copy / "ca.crt"))


def test_openssl_accepts_what_is_issued(cluster: Path, tmp_path: Path) -> None:
    node = tmp_path / "node"
    pki.ensure_node_pki(cluster, node, "node-1", ["10.88.7.11"])
    names = certificate(node / "kubelet.crt").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["10.88.7.11"]
    assert names.get_values_for_type(x509.DNSName) == ["node-1"]
    subject = certificate(node / "client.crt").subject.rfc4514_string()
    assert "CN=system:node:node-1" in subject
    assert "O=system:nodes" in subject
    for purpose, prefix in ((ssl.Purpose.CLIENT_AUTH, "kubelet"), (ssl.Purpose.SERVER_AUTH, "client")):
        context = ssl.create_default_context(purpose, cafile=str(node / "ca.crt"))
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
        context.load_cert_chain(node / f"{prefix}.crt", node / f"{prefix}.key")


def test_a_kubeconfig_embeds_its_files_and_is_private(cluster: Path, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "kubeconfig"
    pki.write_kubeconfig(
        path, "https://127.0.0.1:6443", cluster / "ca.crt", cluster / "admin.crt", cluster / "admin.key"
    )
    assert path.stat().st_mode & 0o777 == 0o600
    document = yaml.safe_load(path.read_text())
    assert document["current-context"] == document["contexts"][0]["name"]
    assert document["clusters"][0]["cluster"]["server"] == "https://127.0.0.1:6443"
    assert set(document["users"][0]["user"]) == {"client-certificate-data", "client-key-data"}


def test_importing_the_module_does_not_import_cryptography() -> None:
    code = "import sys, pyk.pki; sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
