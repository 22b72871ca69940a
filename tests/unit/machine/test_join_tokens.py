"""The text that a person carries to a machine that joins: what it says, and what is told of one that is cut."""

from __future__ import annotations

import math

import pytest

from pyk import pki
from pyk.errors import UserError
from pyk.machine import bundle, tokens
from pyk.machine.authority import hash_of
from pyk.machine.token import BadToken, JoinToken, new_bearer, parse

HASH = "ab" * 32
BEARER = "abcdef.0123456789abcdef"


@pytest.mark.parametrize("key", ["", "cd" * 32])
def test_a_token_says_whom_to_trust_and_who_may_join(key: str) -> None:
    token = JoinToken(HASH, *new_bearer(), key)
    assert parse(f" {token}\n") == token
    assert str(token).startswith(f"K10{HASH}::")


def test_a_bare_token_needs_the_hash_beside_it() -> None:
    assert parse(BEARER, f"sha256:{HASH.upper()}") == JoinToken(HASH, *BEARER.split("."))
    with pytest.raises(BadToken, match="does not say which cluster to trust"):
        parse(BEARER)


@pytest.mark.parametrize(
    ("text", "ca_hash", "why"),
    [
        (f"K10{HASH[1:]}::{BEARER}", "", "its hash of the authority"),
        (f"K10{HASH}::{BEARER[:-1]}", "", "it has to end in ID.SECRET"),
        (f"K10{HASH}::{BEARER}", "sha256:" + "cd" * 32, "different authorities"),
        (BEARER, "sha256:12", "64 hexadecimal digits"),
        ("", "", "cut or changed"),
    ],
)
def test_a_token_that_is_cut_is_told_so_without_its_secret(text: str, ca_hash: str, why: str) -> None:
    with pytest.raises(BadToken, match=why) as raised:
        parse(text, ca_hash)
    assert "0123456789abcdef" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "seconds"), [("24h", 86400), ("90m", 5400), ("7d", 604800), ("1h30m", 5400), ("15s", 15), ("0", math.inf)]
)
def test_a_time_to_live(text: str, seconds: float) -> None:
    assert tokens.parse_ttl(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "-1h", "1.5h", "24"])
def test_what_is_no_time_to_live(text: str) -> None:
    with pytest.raises(UserError, match="--ttl"):
        tokens.parse_ttl(text)


def test_the_bundle_opens_with_its_token_s_key_alone(tmp_path) -> None:  # type: ignore[no-untyped-def]
    pki.ensure_cluster_pki(tmp_path / "one", server_addresses=["10.0.0.1"])
    key = bundle.new_key()
    sealed = bundle.seal(tmp_path / "one", {"cluster-cidr": "10.1.0.0/16"}, key, "abcdef")
    files, settings = bundle.unseal(sealed, key, "abcdef")
    bundle.write(files, tmp_path / "two")
    for name in ("ca.crt", "ca.key", "sa.key", "sa.pub", "tokens.csv"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert (tmp_path / "two" / "ca.key").stat().st_mode & 0o777 == 0o600
    assert settings == {"cluster-cidr": "10.1.0.0/16"}
    for other_key, other_id in ((bundle.new_key(), "abcdef"), (key, "abcdeg"), ("zz", "abcdef")):
        with pytest.raises(bundle.BadBundle):
            bundle.unseal(sealed, other_key, other_id)


def test_the_hash_is_of_the_key_so_that_the_authority_s_certificate_may_be_renewed(tmp_path) -> None:  # type: ignore[no-untyped-def]
    import subprocess

    pki.create_ca(tmp_path)
    # kubeadm's documentation: how to find the value of --discovery-token-ca-cert-hash.
    recipe = f"openssl x509 -pubkey -in {tmp_path}/ca.crt | openssl pkey -pubin -outform der | sha256sum"
    told = subprocess.run(recipe, shell=True, capture_output=True, text=True, check=True).stdout.split()[0]
    assert hash_of((tmp_path / "ca.crt").read_bytes()) == told
