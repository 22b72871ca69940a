"""CertificateSigningRequests: what may be asked for, and who may change which part of the answer.

A request never changes. Its conditions `Approved` and `Denied` come through the subresource `approval`, its certificate
and every other condition through `status`; none of the three conditions that decide it can be taken back. Source:
`pkg/apis/certificates/validation` and `pkg/registry/certificates`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from typing import Any

from pyk.api import names, signers
from pyk.api.duration import human_duration
from pyk.api.kinds import Column, Rules
from pyk.api.objects import Object
from pyk.api.rules.common import AGE, NAME, some
from pyk.api.status import FieldError

_SHORTEST_SECONDS = 600
_CONDITIONS, _CERTIFICATE = "status.conditions", "status.certificate"
_LASTING = ("Approved", "Denied", "Failed")
_DECISIONS = ("Approved", "Denied")
_LONGEST_DOMAIN, _LONGEST_SIGNER = 253, 571
_BLOCK = re.compile(rb"-----BEGIN ([^-]*)-----\s(.*?)-----END \1-----\s?", re.DOTALL)


def _validate(request: Object, old: Object | None) -> Iterable[FieldError]:
    yield from _check_spec(request["spec"])
    yield from _check_conditions(request)
    if old is not None:
        yield from _check_kept(request, old)
        if signers.certificate_of(request) != signers.certificate_of(old):
            yield FieldError.forbidden(_CERTIFICATE, "updates may not set certificate content")


def _validate_status(request: Object, old: Object | None) -> Iterable[FieldError]:
    yield from _check_conditions(request)
    if problem := _problem_of_certificate(signers.certificate_of(request)):
        yield FieldError.invalid(_CERTIFICATE, "<certificate data>", problem)
    if old is None:
        return
    yield from _check_kept(request, old)
    for kind in _DECISIONS:
        if _count(old, kind) < _count(request, kind):
            yield FieldError.forbidden(_CONDITIONS, f'updates may not add a condition of type "{kind}"')
    before = signers.certificate_of(old)
    if before and signers.certificate_of(request) != before:
        yield FieldError.forbidden(_CERTIFICATE, "updates may not modify existing certificate content")


def _check_spec(spec: dict[str, Any]) -> Iterator[FieldError]:
    try:
        if not signers.parse_request(spec["request"]).is_signature_valid:
            raise signers.BadRequest("x509: the signature of the request is not its key's")
    except signers.BadRequest as error:
        yield FieldError.invalid("spec.request", spec["request"], str(error))
    usages = spec.get("usages") or []
    if not usages:
        yield FieldError.required("spec.usages")
    for index, usage in enumerate(usages):
        if usage not in signers.USAGES:
            yield FieldError.not_supported(f"spec.usages[{index}]", usage, signers.USAGES)
        if usage in usages[:index]:
            yield FieldError.duplicate(f"spec.usages[{index}]", usage)
    signer = spec.get("signerName") or ""
    if signer == signers.LEGACY_UNKNOWN:
        detail = "the legacy signerName is not allowed via this API version"
        yield FieldError.invalid("spec.signerName", signer, detail)
    else:
        yield from _check_signer(signer)
    seconds = spec.get("expirationSeconds")
    if seconds is not None and seconds < _SHORTEST_SECONDS:
        detail = "may not specify a duration less than 600 seconds (10 minutes)"
        yield FieldError.invalid("spec.expirationSeconds", seconds, detail)


def _check_signer(signer: str) -> Iterator[FieldError]:
    """A signer's name: a domain, a slash, and a path of subdomains (`ValidateSignerName`)."""
    path = "spec.signerName"
    if not signer:
        yield FieldError.required(path)
        return
    parts = signer.split("/")
    if len(parts) != 2:
        detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'"
        yield FieldError.invalid(path, signer, detail)
        return
    domain, name = parts
    if len(domain) > _LONGEST_DOMAIN:
        yield FieldError.too_long(path, f"may not be more than {_LONGEST_DOMAIN} bytes")
    for part, check in ((domain, names.dns_label), (name, names.dns_subdomain)):
        for label in part.split("."):
            if (problem := check(label)) is not None:
                yield FieldError.invalid(path, part, f'validating label "{label}": {problem}')
                break
        if part is domain and "." not in domain:
            yield FieldError.invalid(path, domain, "should be a domain with at least two segments separated by dots")
    if len(signer) > _LONGEST_SIGNER:
        yield FieldError.too_long(path, f"may not be more than {_LONGEST_SIGNER} bytes")


def _check_conditions(request: Object) -> Iterator[FieldError]:
    seen: set[str] = set()
    for index, condition in enumerate(some(request.get("status"), "conditions")):
        path = f"{_CONDITIONS}[{index}]"
        kind, status = condition.get("type") or "", condition.get("status") or ""
        if not kind:
            yield FieldError.required(f"{path}.type")
        allowed = ("True",) if kind in _LASTING else ("False", "True", "Unknown")
        if not status:
            yield FieldError.required(f"{path}.status")
        elif status not in allowed:
            yield FieldError.not_supported(f"{path}.status", status, allowed)
        if kind in _DECISIONS and seen & (set(_DECISIONS) - {kind}):
            detail = "Approved and Denied conditions are mutually exclusive"
            yield FieldError.invalid(f"{path}.type", kind, detail)
        if kind in seen:
            yield FieldError.duplicate(f"{path}.type", kind)
        seen.add(kind)


def _check_kept(request: Object, old: Object) -> Iterator[FieldError]:
    for kind in _LASTING:
        if _count(request, kind) < _count(old, kind):
            yield FieldError.forbidden(_CONDITIONS, f'updates may not remove a condition of type "{kind}"')


def _count(request: Object, kind: str) -> int:
    return sum(each.get("type") == kind for each in some(request.get("status"), "conditions"))


def _problem_of_certificate(certificate: str) -> str | None:
    """What is wrong with an issued certificate: it is one or more PEM blocks of certificates, without headers."""
    from cryptography import x509

    pem = base64.b64decode(certificate)
    if not pem:
        return None
    blocks = _BLOCK.findall(pem)
    for kind, body in blocks:
        if kind != b"CERTIFICATE":
            return f'only CERTIFICATE PEM blocks are allowed, found "{kind.decode(errors="replace")}"'
        if b":" in body:
            return "no PEM block headers are permitted"
        try:
            x509.load_der_x509_certificate(base64.b64decode(body))
        except ValueError as error:
            return f"x509: malformed certificate: {error}"
    return None if blocks else "must contain one or more CERTIFICATE PEM blocks"


def _prepare(request: Object, old: Object | None) -> None:
    if old is not None:
        request["spec"] = old["spec"]


def _prepare_status(request: Object, old: Object) -> None:
    """A writer of the status need not repeat the decision, and cannot change it."""
    status = request.setdefault("status", {})
    conditions = status.get("conditions") or []
    for kind in _DECISIONS:
        before = [each for each in some(old.get("status"), "conditions") if each["type"] == kind]
        given = [each for each in conditions if each.get("type") == kind]
        if before and len(given) <= len(before):
            conditions = [*(each for each in conditions if each.get("type") != kind), *before]
    if conditions:
        status["conditions"] = conditions


def condition_text(request: Object) -> str:
    """As `kubectl get csr` has it: `Approved,Issued`."""
    found = ["Denied" if signers.is_true(request, "Denied") else "Pending"]
    if found == ["Pending"] and signers.is_true(request, "Approved"):
        found = ["Approved"]
    if signers.is_true(request, "Failed"):
        found.append("Failed")
    if signers.certificate_of(request):
        found.append("Issued")
    return ",".join(found)


def _duration(request: Object) -> str:
    seconds = request["spec"].get("expirationSeconds")
    return "<none>" if seconds is None else human_duration(seconds)


RULES = Rules(
    validate=_validate,
    validate_status=_validate_status,
    prepare=_prepare,
    prepare_status=_prepare_status,
    columns=(
        NAME,
        AGE,
        Column("SignerName", lambda request, now: request["spec"].get("signerName") or "<none>"),
        Column("Requestor", lambda request, now: request["spec"].get("username") or ""),
        Column("RequestedDuration", lambda request, now: _duration(request)),
        Column("Condition", lambda request, now: condition_text(request)),
    ),
    fields={"spec.signerName": lambda request: request["spec"].get("signerName") or ""},
)
