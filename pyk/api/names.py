"""The grammar of names, labels and annotations. Each check returns None, or what is wrong, as Kubernetes words it.

Source: apimachinery `pkg/util/validation`; RFC 1123 and RFC 1035.
"""

from __future__ import annotations

import re

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z")
_LABEL_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?\Z")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")
_QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]\Z")
_ENVIRONMENT = re.compile(r"[ -<>-~]+\Z")


def dns_label(text: str) -> str | None:
    """An RFC 1123 label: a pod's container, a namespace."""
    if len(text) > 63:
        return "must be no more than 63 bytes"
    if _LABEL.match(text) is None:
        return (
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and "
            "end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
            "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
        )
    return None


def dns_label_1035(text: str) -> str | None:
    """An RFC 1035 label, which starts with a letter: a service."""
    if len(text) > 63:
        return "must be no more than 63 bytes"
    if _LABEL_1035.match(text) is None:
        return (
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic "
            "character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for "
            "validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
        )
    return None


def dns_subdomain(text: str) -> str | None:
    """An RFC 1123 subdomain: the name of most objects."""
    if len(text) > 253:
        return "must be no more than 253 bytes"
    if _SUBDOMAIN.match(text) is None:
        return (
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must "
            "start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
            "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
        )
    return None


def qualified_name(text: str) -> str | None:
    """A label or annotation key: an optional subdomain and a slash, then a name of at most 63 characters."""
    prefix, slash, name = text.rpartition("/")
    if slash:
        if "/" in prefix:
            return (
                "a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end with "
                "an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
                "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' "
                "(e.g. 'example.com/MyName')"
            )
        if not prefix:
            return "prefix part must be non-empty"
        if (problem := dns_subdomain(prefix)) is not None:
            return f"prefix part {problem}"
    if not name:
        return "name part must be non-empty"
    if len(name) > 63:
        return "name part must be no more than 63 bytes"
    if _QUALIFIED.match(name) is None:
        return (
            "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
            "alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
            "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
        )
    return None


def label_value(text: str) -> str | None:
    """A label's value: empty, or at most 63 characters."""
    if len(text) > 63:
        return "must be no more than 63 bytes"
    if text and _QUALIFIED.match(text) is None:
        return (
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must "
            "start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used "
            "for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
        )
    return None


def path_segment(text: str) -> str | None:
    """A name that only has to fit into a URL path (RBAC objects)."""
    if text in (".", ".."):
        return f"may not be '{text}'"
    for character in "/%":
        if character in text:
            return f"may not contain '{character}'"
    return None


def config_key(text: str) -> str | None:
    """A key of a ConfigMap or Secret, which becomes a file name."""
    if len(text) > 253:
        return "must be no more than 253 bytes"
    if re.match(r"[-._a-zA-Z0-9]+\Z", text) is None:
        return (
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or "
            "'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
        )
    if text in (".", ".."):
        return f"must not be '{text}'"
    if text.startswith(".."):
        return "must not start with '..'"
    return None


def environment_name(text: str) -> str | None:
    """The name of an environment variable: printable ASCII without '='."""
    if not text:
        return "environment variable name must not be empty"
    if _ENVIRONMENT.match(text) is None:
        return "a valid environment variable name must consist only of printable ASCII characters other than '='"
    return None


def port_name(text: str) -> str | None:
    """The name of a port: an IANA service name (RFC 6335)."""
    if len(text) > 15:
        return "must be no more than 15 characters"
    if re.match(r"[-a-z0-9]+\Z", text) is None:
        return "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"
    if re.search(r"[a-z]", text) is None:
        return "must contain at least one letter (a-z)"
    if "--" in text:
        return "must not contain consecutive hyphens"
    if text[0] == "-" or text[-1] == "-":
        return "must not begin or end with a hyphen"
    return None
