"""Requests for certificates: whose they are, who may decide and sign them, and what nobody may ask for.

A new request carries the identity of its maker, which later decides whether it is approved. `approval` takes the verb
`approve` on the signer, a change of `status` the verb `sign`: on `signers` of that name, or of `DOMAIN/*`. Nobody gets
into `system:masters` by a certificate, and a node asks for its own name only. Sources: the admission plugins
CertificateApproval, CertificateSigning, CertificateSubjectRestriction and NodeRestriction; for identity and times
`pkg/registry/certificates/certificates/strategy.go`.
"""

from __future__ import annotations

from controlplane.apiserver.admission_chain import Review
from controlplane.apiserver.authorization import Attributes, Authorizer, node_name
from controlplane.apiserver.escalation import MASTERS
from pyk.api.groups.certificates import GROUP
from pyk.api.kinds import CERTIFICATE_SIGNING_REQUEST
from pyk.api.objects import Object
from pyk.api.signers import (
    API_CLIENT,
    KUBELET_CLIENT,
    KUBELET_SERVING,
    BadRequest,
    certificate_of,
    common_name,
    organizations,
    parse_request,
)
from pyk.reconcile.clock import Clock, timestamp


class Certificates:
    """The plugin."""

    def __init__(self, authorizer: Authorizer, clock: Clock) -> None:
        self._authorizer = authorizer
        self._clock = clock

    async def __call__(self, review: Review) -> None:
        if review.kind is not CERTIFICATE_SIGNING_REQUEST or review.object is None:
            return
        if review.old is None:
            _sign_in(review, review.object)
            _check_subject(review, review.object)
        elif review.subresource == "approval":
            self._check_signer(review, review.old, "approve")
            _set_times(review.object, review.old, timestamp(self._clock.time()))
        elif review.subresource == "status":
            new, old = review.object, review.old
            if certificate_of(new) != certificate_of(old) or _conditions(new) != _conditions(old):
                self._check_signer(review, old, "sign")
            _set_times(new, old, timestamp(self._clock.time()))

    def _check_signer(self, review: Review, request: Object, verb: str) -> None:
        signer = request["spec"].get("signerName") or ""
        for name in (signer, f"{signer.partition('/')[0]}/*"):
            if self._authorizer.decide(Attributes(review.user, verb, GROUP, "*", "signers", name=name)) is None:
                return
        raise review.refusal(f'user not permitted to {verb} requests with signerName "{signer}"')


def _sign_in(review: Review, request: Object) -> None:
    """Put in whose request it is, whatever the client said."""
    spec, user = request["spec"], review.user
    for field in ("username", "uid", "groups", "extra"):
        spec.pop(field, None)
    spec["username"] = user.name
    if user.uid:
        spec["uid"] = user.uid
    if user.groups:
        spec["groups"] = list(user.groups)
    if user.extra:
        spec["extra"] = {key: list(values) for key, values in user.extra}


def _check_subject(review: Review, request: Object) -> None:
    signer = request["spec"].get("signerName")
    is_node = bool(node_name(review.user))
    if not (signer == API_CLIENT or (is_node and signer in (KUBELET_CLIENT, KUBELET_SERVING))):
        return
    try:
        asked = parse_request(request["spec"]["request"])
    except BadRequest as error:
        if is_node:
            raise review.refusal(f"unable to parse csr: {error}") from None
        return  # validation says so
    if signer == API_CLIENT and MASTERS in organizations(asked):
        raise review.refusal(f"use of {signer} signer with {MASTERS} group is not allowed")
    if signer != API_CLIENT and common_name(asked) != review.user.name:
        raise review.refusal(f"can only create a node CSR with CN={review.user.name}")


def _conditions(request: Object) -> list[dict[str, object]]:
    return (request.get("status") or {}).get("conditions") or []


def _set_times(new: Object, old: Object, now: str) -> None:
    """Conditions that came without times get them; a state that was there before keeps when it began."""
    for condition in _conditions(new):
        condition["lastUpdateTime"] = condition.get("lastUpdateTime") or now
        if not condition.get("lastTransitionTime"):
            same = ("type", "status")
            began = [
                each.get("lastTransitionTime")
                for each in _conditions(old)
                if all(each.get(field) == condition.get(field) for field in same)
            ]
            condition["lastTransitionTime"] = next(filter(None, began), now)
