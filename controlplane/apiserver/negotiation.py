"""What a client accepts: the encoding (JSON or YAML) and the form (the object, a Table, its metadata only).

Source: the API concepts pages on "Receiving resources as Tables" and on content types. A client lists several, such as
`application/json;as=Table;v=v1;g=meta.k8s.io,application/json`, and gets the first that is served.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from pyk.api.status import ApiError

Form = Literal["", "Table", "PartialObjectMetadata", "PartialObjectMetadataList"]


@dataclass(frozen=True, slots=True)
class Accepted:
    """The encoding and the form of an answer; an empty form is the object itself."""

    media: Literal["json", "yaml"] = "json"
    form: Form = ""
    version: str = "v1"
    """Of the form, in the group meta.k8s.io."""

    @property
    def content_type(self) -> str:
        return f"application/{self.media}"


_JSON = Accepted()
_MEDIA: dict[str, Literal["json", "yaml"]] = {
    "application/json": "json",
    "application/yaml": "yaml",
    "application/*": "json",
    "*/*": "json",
}
_FORMS: dict[str, Form] = {
    "": "",
    "Table": "Table",
    "PartialObjectMetadata": "PartialObjectMetadata",
    "PartialObjectMetadataList": "PartialObjectMetadataList",
}

_VERSIONS = ("v1", "v1beta1")


@lru_cache(maxsize=512)
def negotiate(accept: str, *, is_stream: bool = False) -> Accepted:
    """The first acceptable encoding and form of an Accept header. Raises 406. A stream is JSON only."""
    if not accept or accept == "*/*":
        return _JSON
    for media, parameters in _by_preference(accept):
        encoding = _MEDIA.get(media)
        form = _FORMS.get(parameters.get("as", ""))
        if encoding is None or form is None or (is_stream and encoding == "yaml"):
            continue
        version = parameters.get("v", "v1") if form else "v1"
        if version not in _VERSIONS or (form and parameters.get("g", "meta.k8s.io") != "meta.k8s.io"):
            continue
        return Accepted(encoding, form, version)
    accepted = "application/json" if is_stream else "application/json, application/yaml"
    raise not_acceptable(f"only the following media types are accepted: {accepted}")


def not_acceptable(message: str) -> ApiError:
    return ApiError(406, "NotAcceptable", message)


def _by_preference(accept: str) -> list[tuple[str, dict[str, str]]]:
    """Media types with their parameters, by falling `q`, else in their order."""
    clauses = []
    for clause in accept.split(","):
        media, *parts = (part.strip() for part in clause.split(";"))
        parameters = {key.strip(): value.strip() for key, _, value in (part.partition("=") for part in parts)}
        try:
            quality = float(parameters.pop("q", "1"))
        except ValueError:
            quality = 1.0
        if quality > 0:
            clauses.append((quality, media.lower(), parameters))
    clauses.sort(key=lambda clause: -clause[0])
    return [(media, parameters) for _, media, parameters in clauses]
