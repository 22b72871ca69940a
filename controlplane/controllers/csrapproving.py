"""The loop that approves nodes' requests for certificates when their maker may have them.

A request that is well-formed for its signer is recognized as one of `RECOGNIZED`, the most particular first; it is
approved when its maker may `create` the subresource of `certificatesigningrequests` that goes with it, which the API
server is asked (SubjectAccessReview). A bootstrap token may thus get a node its first certificate (`nodeclient`), a
node may renew its own (`selfnodeclient`), and have a serving certificate (`selfnodeserver`) for names and addresses
that its Node has and no other Node claims. Everything else waits for a person. Source:
`pkg/controller/certificates/approver`, which leaves serving certificates to others; here their addresses are checked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pyk.api import signers
from pyk.api.groups.certificates import GROUP
from pyk.api.kinds import CERTIFICATE_SIGNING_REQUEST, SUBJECT_ACCESS_REVIEW
from pyk.api.objects import Object, name_of
from pyk.client.client import Client
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.actions import Action, Update, apply
from pyk.reconcile.clock import Clock, timestamp
from pyk.reconcile.controller import Controller

REASON = "AutoApproved"


@dataclass(frozen=True, slots=True)
class Recognized:
    """What a request is: the subresource that its maker must be allowed to create, and what the approval says."""

    subresource: str
    message: str


SELF_CLIENT = Recognized("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.")
CLIENT = Recognized("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.")
SELF_SERVER = Recognized("selfnodeserver", "Auto approving self kubelet serving certificate after SubjectAccessReview.")


def is_decided(request: Object) -> bool:
    """Whether somebody approved or denied it, or it has its certificate."""
    is_said = signers.is_true(request, "Approved") or signers.is_true(request, "Denied")
    return is_said or bool(signers.certificate_of(request))


def recognize(request: Object, nodes: Iterable[Object]) -> list[Recognized]:
    """What the request may be approved as. A serving request counts when `nodes` bear out its names and addresses."""
    spec = request["spec"]
    signer, maker = spec.get("signerName"), spec.get("username") or ""
    if signer not in (signers.KUBELET_CLIENT, signers.KUBELET_SERVING):
        return []
    try:
        asked = signers.parse_request(spec["request"])
        signers.check_for_signer(asked, spec.get("usages") or (), signer)
        is_own = signers.common_name(asked) == maker
        if signer == signers.KUBELET_CLIENT:
            return [SELF_CLIENT, CLIENT] if is_own else [CLIENT]
        dns, addresses, _, _ = signers.alternative_names(asked)
    except signers.BadRequest:
        return []
    node = maker.removeprefix(signers.NODE_PREFIX)
    return [SELF_SERVER] if is_own and _are_of_node(node, {*dns, *addresses}, nodes) else []


def _are_of_node(name: str, wanted: set[str], nodes: Iterable[Object]) -> bool:
    own: set[str] = set()
    others: set[str] = set()
    for node in nodes:
        known = {name_of(node), *(each["address"] for each in (node.get("status") or {}).get("addresses") or ())}
        if name_of(node) == name:
            own = known
        else:
            others |= known
    return wanted <= own - others


def decide(request: Object, approved_as: Recognized | None, now: float) -> list[Action]:
    """Approve a request that is recognized, and whose maker may have it."""
    if approved_as is None:
        return []
    condition = {
        "type": "Approved",
        "status": "True",
        "reason": REASON,
        "message": approved_as.message,
        "lastUpdateTime": timestamp(now),
    }
    status = request.get("status") or {}
    conditions = [*(status.get("conditions") or ()), condition]
    return [Update({**request, "status": {**status, "conditions": conditions}}, subresource="approval")]


class CsrApprovingLoop:
    """Observes requests and nodes, asks the API server who may, and approves."""

    def __init__(
        self, client: Client, recorder: EventRecorder, clock: Clock, requests: Informer, nodes: Informer
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._clock = clock
        self._requests = requests
        self._nodes = nodes
        self.controller = Controller(
            "certificatesigningrequest-approving", self.reconcile, clock=clock, base_delay=0.2, max_delay=30.0
        )
        self.controller.watches(requests)
        self.controller.watches(nodes, self._waiting)

    def _waiting(self, node: Object) -> Iterable[str]:
        """The requests of a node, which wait for its addresses."""
        maker = f"{signers.NODE_PREFIX}{name_of(node)}"
        for request in self._requests.values():
            if request["spec"].get("username") == maker and not is_decided(request):
                yield name_of(request)

    async def reconcile(self, key: str) -> None:
        """See to one request."""
        request = self._requests.get(key)
        if request is None or is_decided(request):
            return
        for found in recognize(request, self._nodes.values()):
            if await self._may(request, found):
                await apply(self._client, self._recorder, decide(request, found, self._clock.time()))
                return

    async def _may(self, request: Object, found: Recognized) -> bool:
        spec = request["spec"]
        review = {
            "apiVersion": SUBJECT_ACCESS_REVIEW.api_version,
            "kind": SUBJECT_ACCESS_REVIEW.kind,
            "metadata": {},
            "spec": {
                "user": spec.get("username") or "",
                "uid": spec.get("uid") or "",
                "groups": spec.get("groups") or [],
                "extra": spec.get("extra") or {},
                "resourceAttributes": {
                    "group": GROUP,
                    "resource": CERTIFICATE_SIGNING_REQUEST.plural,
                    "verb": "create",
                    "subresource": found.subresource,
                },
            },
        }
        answer = await self._client.create(SUBJECT_ACCESS_REVIEW, review)
        return bool(answer["status"]["allowed"])
