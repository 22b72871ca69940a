"""What a further control plane needs to be one: the cluster's keys, encrypted for whoever has the token.

The bundle lies in a Secret beside its token, encrypted (AES-256-GCM) with a key that is only in the token's text, as
kubeadm does with its certificate key: who reads the API or the store cannot use it. It belongs to the token's Secret,
so it goes when the token does; the token's bearer, and nobody else below an administrator, may read it.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Mapping
from pathlib import Path

from pyk import pki
from pyk.api.bootstraptokens import SECRET_NAMESPACE, USER_PREFIX
from pyk.api.objects import Object
from pyk.errors import UserError

FILES = (
    "ca.crt",
    "ca.key",
    "sa.key",
    "sa.pub",
    "tokens.csv",
    "etcd/ca.crt",
    "etcd/ca.key",
)
"""In the control plane's pki folder: what all control planes share. The other certificates each has for itself."""
_KEY_BYTES, _NONCE_BYTES = 32, 12


class BadBundle(UserError):
    """The bundle cannot be opened."""


def new_key() -> str:
    """A key, in the form in which a token has it."""
    return secrets.token_hex(_KEY_BYTES)


def name_of(token_id: str) -> str:
    """The name of the Secret, and of the role that lets the token's bearer read it."""
    return f"pyk-control-plane-{token_id}"


def seal(pki_dir: Path, settings: Mapping[str, str], key: str, token_id: str) -> str:
    """The files and settings, encrypted, as base64. Raises OSError when a file cannot be read."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    present = {name: pki_dir / name for name in FILES if (pki_dir / name).exists()}
    files = {name: base64.b64encode(file.read_bytes()).decode() for name, file in present.items()}
    nonce = secrets.token_bytes(_NONCE_BYTES)
    content = json.dumps({"files": files, "settings": dict(settings)}).encode()
    return base64.b64encode(nonce + AESGCM(bytes.fromhex(key)).encrypt(nonce, content, token_id.encode())).decode()


def unseal(sealed: str, key: str, token_id: str) -> tuple[dict[str, bytes], dict[str, str]]:
    """The files by name, and the settings. Raises `BadBundle`."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        raw = base64.b64decode(sealed, validate=True)
        nonce, content = raw[:_NONCE_BYTES], raw[_NONCE_BYTES:]
        document = json.loads(AESGCM(bytes.fromhex(key)).decrypt(nonce, content, token_id.encode()))
    except (ValueError, InvalidTag):
        raise BadBundle("the token is cut or changed: its last part does not open the control plane's keys") from None
    files = {name: base64.b64decode(text) for name, text in document["files"].items() if name in FILES}
    return files, dict(document["settings"])


def write(files: Mapping[str, bytes], pki_dir: Path) -> None:
    """Put the files where the control plane looks for them; the certificates of authorities last."""
    for name in sorted(files, key=lambda name: name.endswith(".crt")):
        file = pki_dir / name
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        pki.write_whole(file, files[name], mode=0o644 if name.endswith((".crt", ".pub")) else 0o600)


def objects(token_id: str, sealed: str, token_secret: Object) -> list[Object]:
    """The Secret with the bundle, and the role and binding by which the token's bearer reads it."""
    name = name_of(token_id)
    owner = {
        "apiVersion": "v1",
        "kind": "Secret",
        "name": token_secret["metadata"]["name"],
        "uid": token_secret["metadata"]["uid"],
    }
    metadata = {"name": name, "namespace": SECRET_NAMESPACE, "ownerReferences": [owner]}
    group = "rbac.authorization.k8s.io"
    rule = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [name], "verbs": ["get"]}
    subject = {"apiGroup": group, "kind": "User", "name": f"{USER_PREFIX}{token_id}"}
    return [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata,
            "type": "Opaque",
            "data": {"bundle": base64.b64encode(sealed.encode()).decode()},
        },
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": metadata, "rules": [rule]},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
            "subjects": [subject],
        },
    ]
