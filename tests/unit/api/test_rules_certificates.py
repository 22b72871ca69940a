"""CertificateSigningRequests: what may be asked for, and what of the answer may change."""

from __future__ import annotations

import base64
import copy
from typing import Any

import pytest

from pyk.api import signers
from pyk.api.kinds import CERTIFICATE_SIGNING_REQUEST
from pyk.api.rules.certificates import condition_text
from tests.unit.certificate_requests import csr

RULES = CERTIFICATE_SIGNING_REQUEST.rules
CLIENT_USAGES = ["digital signature", "client auth"]
APPROVED = {"type": "Approved", "status": "True"}
DENIED = {"type": "Denied", "status": "True"}


def request(**spec: Any) -> dict[str, Any]:
    asked = {"request": csr("ada"), "signerName": signers.API_CLIENT, "usages": CLIENT_USAGES, **spec}
    return {"metadata": {"name": "x"}, "spec": asked, "status": {}}


def problems(new: dict[str, Any], old: dict[str, Any] | None = None, *, status: bool = False) -> list[str]:
    check = RULES.validate_status if status else RULES.validate
    return [f"{error.field}: {error.message}" for error in check(new, old)]


def answered(*conditions: dict[str, str], certificate: str = "") -> dict[str, Any]:
    status: dict[str, Any] = {"conditions": list(conditions)}
    if certificate:
        status["certificate"] = certificate
    return {**request(), "status": status}


def test_a_right_request_passes() -> None:
    assert problems(request()) == []
    assert problems(request(signerName="example.com/my-signer", expirationSeconds=600)) == []


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({"usages": []}, "spec.usages: Required value"),
        ({"usages": ["client auth", "client auth"]}, 'spec.usages[1]: Duplicate value: "client auth"'),
        ({"signerName": ""}, "spec.signerName: Required value"),
        (
            {"signerName": "nodomain"},
            'spec.signerName: Invalid value: "nodomain": must be a fully qualified domain and path of the form '
            "'example.com/signer-name'",
        ),
        (
            {"signerName": "local/x"},
            'spec.signerName: Invalid value: "local": should be a domain with at least two segments separated by dots',
        ),
        (
            {"signerName": signers.LEGACY_UNKNOWN},
            'spec.signerName: Invalid value: "kubernetes.io/legacy-unknown": the legacy signerName is not allowed via '
            "this API version",
        ),
        (
            {"expirationSeconds": 599},
            "spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 600 seconds (10 minutes)",
        ),
        (
            {"request": base64.b64encode(b"hello").decode()},
            'spec.request: Invalid value: "aGVsbG8=": PEM block type must be CERTIFICATE REQUEST',
        ),
    ],
)
def test_a_wrong_request_is_refused_in_kubernetes_words(spec: dict[str, Any], problem: str) -> None:
    assert problems(request(**spec)) == [problem]


def test_an_unknown_usage_is_told_the_known_ones() -> None:
    (problem,) = problems(request(usages=["cooking"]))
    assert problem.startswith('spec.usages[0]: Unsupported value: "cooking": supported values: "any", "cert sign", ')


def test_a_request_with_a_foreign_signature_is_refused() -> None:
    pem = base64.b64decode(csr("ada")).decode().splitlines()
    body = bytearray(base64.b64decode("".join(pem[1:-1])))
    body[-1] ^= 1
    broken = [pem[0], base64.b64encode(bytes(body)).decode(), pem[-1], ""]
    (problem,) = problems(request(request=base64.b64encode("\n".join(broken).encode()).decode()))
    assert problem.endswith("the signature of the request is not its key's")


def test_decisions_exclude_each_other_and_last() -> None:
    (problem,) = problems(answered(APPROVED, DENIED))
    assert problem.endswith("Approved and Denied conditions are mutually exclusive")
    unsure = {**APPROVED, "status": "False"}
    assert problems(answered(unsure)) == [
        'status.conditions[0].status: Unsupported value: "False": supported values: "True"'
    ]
    assert problems(answered(), answered(APPROVED)) == [
        'status.conditions: Forbidden: updates may not remove a condition of type "Approved"'
    ]
    assert problems(answered(APPROVED), answered(), status=True) == [
        'status.conditions: Forbidden: updates may not add a condition of type "Approved"'
    ]


def test_a_certificate_is_pem_and_is_written_once() -> None:
    assert problems(answered(APPROVED, certificate="aGVsbG8="), answered(APPROVED), status=True) == [
        'status.certificate: Invalid value: "<certificate data>": must contain one or more CERTIFICATE PEM blocks'
    ]
    key = base64.b64encode(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").decode()
    assert problems(answered(APPROVED, certificate=key), answered(APPROVED), status=True) == [
        'status.certificate: Invalid value: "<certificate data>": only CERTIFICATE PEM blocks are allowed, found '
        '"PRIVATE KEY"'
    ]
    assert "updates may not set certificate content" in problems(answered(certificate="aGVsbG8="), answered())[0]


def test_a_writer_of_the_status_need_not_repeat_the_decision() -> None:
    new, old = answered({"type": "Failed", "status": "True"}), answered(APPROVED)
    RULES.prepare_status(new, old)
    assert [each["type"] for each in new["status"]["conditions"]] == ["Failed", "Approved"]


def test_a_request_does_not_change() -> None:
    old = request()
    new = copy.deepcopy(old)
    new["spec"]["usages"] = ["server auth"]
    RULES.prepare(new, old)
    assert new["spec"] == old["spec"]


def test_what_kubectl_shows() -> None:
    assert condition_text(answered()) == "Pending"
    assert condition_text(answered(APPROVED, certificate="eA==")) == "Approved,Issued"
    assert condition_text(answered(DENIED)) == "Denied"
    cells = {column.name: column.cell(request(expirationSeconds=3600), 0.0) for column in RULES.columns[2:]}
    assert (cells["SignerName"], cells["RequestedDuration"]) == (signers.API_CLIENT, "60m")
