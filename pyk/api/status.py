"""Errors as the API speaks them: `Status` objects, their reasons and causes.

`ApiError` is raised by the API server where a request fails and by the client when it is told so; each carries
the `Status` facts. A `FieldError` is one thing wrong with one field, collected by validation.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong with one field: `reason` is a cause type of Kubernetes (`FieldValueInvalid`, ...)."""

    field: str
    reason: str
    message: str

    @staticmethod
    def required(field: str, detail: str = "") -> FieldError:
        return FieldError(field, "FieldValueRequired", f"Required value{': ' + detail if detail else ''}")

    @staticmethod
    def invalid(field: str, value: object, detail: str) -> FieldError:
        return FieldError(field, "FieldValueInvalid", f"Invalid value: {_shown(value)}: {detail}")

    @staticmethod
    def duplicate(field: str, value: object) -> FieldError:
        return FieldError(field, "FieldValueDuplicate", f"Duplicate value: {_shown(value)}")

    @staticmethod
    def not_supported(field: str, value: object, supported: Iterable[str]) -> FieldError:
        choices = ", ".join(f'"{choice}"' for choice in sorted(supported))
        return FieldError(
            field,
            "FieldValueNotSupported",
            f"Unsupported value: {_shown(value)}: supported values: {choices}",
        )

    @staticmethod
    def forbidden(field: str, detail: str) -> FieldError:
        return FieldError(field, "FieldValueForbidden", f"Forbidden: {detail}")

    @staticmethod
    def not_found(field: str, value: object, detail: str = "") -> FieldError:
        return FieldError(field, "FieldValueNotFound", f"Not found: {_shown(value)}{': ' + detail if detail else ''}")

    @staticmethod
    def too_long(field: str, detail: str) -> FieldError:
        return FieldError(field, "FieldValueTooLong", f"Too long: {detail}")

    @staticmethod
    def too_many(field: str, count: int, most: int) -> FieldError:
        return FieldError(field, "FieldValueTooMany", f"Too many: {count}: must have at most {most} items")


def _shown(value: object) -> str:
    if value is None:
        return '"null"'  # as Go prints a nil pointer
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class ApiError(Exception):
    """A request that failed: the facts of a `Status` object.

    `code` is the HTTP status, `reason` the machine-readable word (`NotFound`, `Conflict`, ...), `causes` the
    details per field, `retry_after_seconds` how long a client should wait.
    """

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        *,
        details: dict[str, Any] | None = None,
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details or {}
        self.retry_after_seconds = retry_after_seconds

    def to_status(self) -> dict[str, Any]:
        """The `Status` object that goes over the wire."""
        details = dict(self.details)
        if self.retry_after_seconds is not None:
            details["retryAfterSeconds"] = self.retry_after_seconds
        status: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        }
        if details:
            status["details"] = details
        status["code"] = self.code
        return status

    @staticmethod
    def from_status(code: int, status: dict[str, Any]) -> ApiError:
        """The error that a `Status` object tells of; tolerates bodies that are none."""
        return ApiError(
            int(status.get("code") or code),
            str(status.get("reason") or ""),
            str(status.get("message") or f"the server answered {code}"),
            details=status.get("details"),
        )

    @staticmethod
    def from_body(code: int, content: bytes) -> ApiError:
        """The error that an HTTP answer tells of, whatever its body is."""
        return ApiError.from_status(code, _parse_status(code, content))


def _parse_status(code: int, content: bytes) -> dict[str, Any]:
    try:
        status = json.loads(content)
    except ValueError:
        status = None
    if isinstance(status, dict):
        return status
    return {"message": content.decode(errors="replace").strip() or f"the server answered {code}"}


def _details(group: str, kind: str, name: str, **more: Any) -> dict[str, Any]:
    details = {"name": name, "group": group, "kind": kind, **more}
    return {key: value for key, value in details.items() if value not in ("", None)}


def _qualified(resource: str, group: str) -> str:
    return f"{resource}.{group}" if group else resource


def not_found(group: str, resource: str, name: str) -> ApiError:
    return ApiError(
        404,
        "NotFound",
        f'{_qualified(resource, group)} "{name}" not found',
        details=_details(group, resource, name),
    )


def already_exists(group: str, resource: str, name: str) -> ApiError:
    return ApiError(
        409,
        "AlreadyExists",
        f'{_qualified(resource, group)} "{name}" already exists',
        details=_details(group, resource, name),
    )


def conflict(group: str, resource: str, name: str, message: str) -> ApiError:
    return ApiError(
        409,
        "Conflict",
        f'Operation cannot be fulfilled on {_qualified(resource, group)} "{name}": {message}',
        details=_details(group, resource, name),
    )


def invalid(group: str, kind: str, name: str, errors: Sequence[FieldError]) -> ApiError:
    """422 with one cause per field."""
    texts = [f"{error.field}: {error.message}" for error in errors]
    joined = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    causes = [{"reason": e.reason, "message": e.message, "field": e.field} for e in errors]
    return ApiError(
        422,
        "Invalid",
        f'{_qualified(kind, group)} "{name}" is invalid: {joined}',
        details=_details(group, kind, name, causes=causes),
    )


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def forbidden(group: str, resource: str, name: str, message: str) -> ApiError:
    subject = _qualified(resource, group) + (f' "{name}"' if name else "")
    return ApiError(403, "Forbidden", f"{subject} is forbidden: {message}", details=_details(group, resource, name))


def unauthorized() -> ApiError:
    return ApiError(401, "Unauthorized", "Unauthorized")


def method_not_allowed() -> ApiError:
    return ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")


def expired(message: str) -> ApiError:
    return ApiError(410, "Expired", message)


def unavailable(message: str, retry_after_seconds: int = 1) -> ApiError:
    return ApiError(503, "ServiceUnavailable", message, retry_after_seconds=retry_after_seconds)


def internal_error(message: str) -> ApiError:
    return ApiError(500, "InternalError", f"Internal error occurred: {message}")
