"""Bootstrap tokens: how they are written and read, what signs the cluster's information, and when they go."""

from __future__ import annotations

import base64
import json
import math

import jwt
import pytest

from controlplane.controllers import bootstrapsigner, tokencleaner
from pyk.api.bootstraptokens import BootstrapToken, split_token, token_of

NOW = 1_750_000_000.0
BOTH = frozenset({"authentication", "signing"})
TOKEN = BootstrapToken("abcdef", "0123456789abcdef", BOTH, ("system:bootstrappers:workers",), NOW + 60, "a rack")


def test_a_token_is_read_as_it_was_written() -> None:
    assert token_of(TOKEN.to_secret()) == TOKEN
    plain = BootstrapToken("abcdef", "0123456789abcdef", frozenset())
    assert token_of(plain.to_secret()) == plain
    assert TOKEN.groups == ("system:bootstrappers", "system:bootstrappers:workers")


@pytest.mark.parametrize("text", ["", "abcdef", "abcdef.0123456789ABCDEF", "abcdef.0123456789abcde", "abcdef.x\n"])
def test_what_is_no_token(text: str) -> None:
    assert split_token(text) is None


def changed(key: str, value: str) -> dict:
    secret = TOKEN.to_secret()
    secret["data"][key] = base64.b64encode(value.encode()).decode()
    return secret


def test_a_secret_that_is_not_in_order_is_no_token() -> None:
    assert token_of({**TOKEN.to_secret(), "type": "Opaque"}) is None
    assert token_of(changed("token-id", "fedcba")) is None, "it is named for another token"
    assert token_of(changed("auth-extra-groups", "system:masters")) is None
    assert token_of(changed("token-secret", "short")) is None


def test_an_expiry_that_cannot_be_read_has_passed() -> None:
    token = token_of(changed("expiration", "soon"))
    assert token is not None
    assert token.is_expired(NOW)
    assert not TOKEN.is_expired(NOW)
    assert TOKEN.is_expired(NOW + 60)


def test_expired_tokens_are_deleted() -> None:
    secret = TOKEN.to_secret()
    assert tokencleaner.decide(secret, NOW) == []
    assert len(tokencleaner.decide(secret, NOW + 60)) == 1
    assert tokencleaner.decide({**secret, "type": "Opaque"}, math.inf) == []


def cluster_info(**data: str) -> dict:
    metadata = {"name": "cluster-info", "namespace": "kube-public"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"kubeconfig": "content", **data}}


def test_the_cluster_s_information_is_signed_with_every_signing_token() -> None:
    stale = cluster_info(**{"jws-kubeconfig-gone11": "x", "kept": "y"})
    other = BootstrapToken("fedcba", "0123456789abcdef", frozenset({"authentication"}))
    (action,) = bootstrapsigner.decide(stale, [TOKEN, other], NOW)
    data = action.obj["data"]
    assert data.keys() == {"kubeconfig", "kept", "jws-kubeconfig-abcdef"}
    header, payload, signature = data["jws-kubeconfig-abcdef"].split(".")
    assert payload == ""
    assert json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4))) == {"alg": "HS256", "kid": "abcdef"}
    whole = f"{header}.{base64.urlsafe_b64encode(b'content').rstrip(b'=').decode()}.{signature}"
    assert jwt.PyJWS().decode(whole, TOKEN.secret, algorithms=["HS256"]) == b"content"
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.PyJWS().decode(whole, "another-secret-1", algorithms=["HS256"])
    assert bootstrapsigner.decide(action.obj, [TOKEN], NOW) == []
    (action,) = bootstrapsigner.decide(action.obj, [TOKEN], NOW + 60)
    assert action.obj["data"].keys() == {"kubeconfig", "kept"}, "an expired token signs nothing"
