"""The commands of scenario files about requests for certificates and bootstrap tokens."""

from __future__ import annotations

import base64
from typing import Any

from controlplane.controllers import bootstrapsigner, csrapproving, csrcleaning, csrsigning, tokencleaner
from pyk.api import signers
from pyk.api.bootstraptokens import BootstrapToken, token_of
from pyk.api.objects import Object
from pyk.api.rules.certificates import condition_text
from pyk.reconcile.actions import Action
from pyk.reconcile.clock import timestamp
from tests.scenarios.world import World
from tests.unit.certificate_requests import csr

Settings = dict[str, str]
_USAGES = {"kubelet": "client auth", "serving": "server auth", "person": "client auth"}
_SIGNERS = {"kubelet": signers.KUBELET_CLIENT, "serving": signers.KUBELET_SERVING, "person": signers.API_CLIENT}


class _Authority:
    """Signs everything with one word: what a certificate holds is shown by tests of its own."""

    def sign(self, request: str, usages: list[str], not_before: float, not_after: float) -> bytes:
        return f"good for {not_after - not_before:.0f} s".encode()


class CertificateActors:
    """What `Actors` can do with them."""

    world: World

    def do_request(self, name: str, settings: Settings) -> list[str]:
        """`by=MAKER` asks for a `kubelet`, `serving` or `person` certificate: `for=SUBJECT groups= address=`."""
        kind = next(kind for kind in _SIGNERS if kind in settings)
        groups = settings.get("groups", "system:nodes").split(",")
        addresses = settings["address"].split(",") if "address" in settings else ()
        spec: Object = {
            "request": csr(settings["for"], groups, addresses=addresses),
            "signerName": _SIGNERS[kind],
            "usages": ["digital signature", _USAGES[kind]],
            "username": settings["by"],
        }
        if "seconds" in settings:
            spec["expirationSeconds"] = int(settings["seconds"])
        metadata = {"name": name, "creationTimestamp": timestamp(self.world.now)}
        types = {"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest"}
        self.world.add({**types, "metadata": metadata, "spec": spec, "status": {}})
        return []

    def do_consider(self, name: str, settings: Settings) -> list[str]:
        """The approving loop looks at a request, whose maker `may` create these subresources."""
        request = self.world.find("CertificateSigningRequest", name)
        if csrapproving.is_decided(request):
            return ["decided"]
        may = settings.get("may", "").split(",")
        for found in csrapproving.recognize(request, self.world.all("Node")):
            if found.subresource in may:
                return self._answer(name, csrapproving.decide(request, found, self.world.now))
        return ["waits for a person"]

    def do_decided(self, name: str, settings: Settings) -> list[str]:
        """A person has said `approved` or `denied`."""
        request = self.world.find("CertificateSigningRequest", name)
        kind = "Approved" if "approved" in settings else "Denied"
        condition = {"type": kind, "status": "True", "lastUpdateTime": timestamp(self.world.now)}
        self.world.replace({**request, "status": {"conditions": [condition]}})
        return []

    def do_sign(self, name: str, settings: Settings) -> list[str]:
        """The signing loop looks at a request."""
        request = self.world.find("CertificateSigningRequest", name)
        return self._answer(name, csrsigning.decide(request, _Authority(), self.world.now)) or ["leaves it alone"]

    def do_tidy(self, name: str, settings: Settings) -> list[str]:
        """The cleaning loop looks at a request `after=SECONDS`."""
        request = self.world.find("CertificateSigningRequest", name)
        later = self.world.now + float(settings["after"])
        return [f"delete {name}" for _ in csrcleaning.decide(request, later)] or ["stays"]

    def _answer(self, name: str, actions: list[Action]) -> list[str]:
        lines = []
        for action in actions:
            self.world.replace(
                {**self.world.find("CertificateSigningRequest", name), "status": _object(action)["status"]}
            )
            status = _object(action)["status"]
            failed = [each["message"] for each in status["conditions"] if each["type"] == "Failed"]
            certificate = base64.b64decode(status.get("certificate") or "").decode()
            told = ", ".join(filter(None, [condition_text(_object(action)), *failed, certificate]))
            lines.append(f"{name}: {told}")
        return lines

    # Bootstrap tokens

    def do_token(self, name: str, settings: Settings) -> list[str]:
        """A token for `usages=`, which expires `in=SECONDS`."""
        usages = frozenset(settings.get("usages", "authentication,signing").split(","))
        expires = self.world.now + float(settings.get("in", "inf"))
        secret = BootstrapToken(name, "0123456789abcdef", usages, expires=expires).to_secret()
        secret["metadata"]["namespace"] = "default"
        self.world.add(secret)
        return []

    def do_vouch(self, name: str, settings: Settings) -> list[str]:
        """The signing loop of bootstrap tokens looks at the cluster's information: what it is signed with then."""
        info = self.world.get("ConfigMap", "cluster-info")
        if info is None:
            metadata = {"name": "cluster-info", "namespace": "default"}
            info = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"kubeconfig": "x"}}
            self.world.add(info)
        tokens = [token for secret in self.world.all("Secret") if (token := token_of(secret)) is not None]
        lines = []
        for action in bootstrapsigner.decide(info, tokens, self.world.now + float(settings.get("after", "0"))):
            self.world.replace(_object(action))
            keys = sorted(_object(action)["data"].keys() - {"kubeconfig"})
            lines.append(f"cluster-info: {', '.join(keys) or 'not signed'}")
        return lines

    def do_expire(self, name: str, settings: Settings) -> list[str]:
        """The cleaner looks at a token `after=SECONDS`."""
        secret = self.world.find("Secret", f"bootstrap-token-{name}")
        actions = tokencleaner.decide(secret, self.world.now + float(settings["after"]))
        return [line for action in actions for line in self.world.carry_out(action)] or ["stays"]


def _object(action: Any) -> Object:
    found: Object = action.obj
    return found
