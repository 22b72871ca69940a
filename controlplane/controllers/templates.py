"""Pod templates as identities: equality that ignores the hash label, and the hash itself.

A Deployment recognizes its ReplicaSets by template. The hash only makes names and selectors distinct; it is
FNV-1a over the canonical JSON of the template and the collision count, written in letters that spell no words
(apimachinery's `rand.SafeEncodeString`). Equal templates always hash alike; unlike ones may collide, which
the Deployment loop answers with a higher collision count.
"""

from __future__ import annotations

import json
from typing import Any

HASH_LABEL = "pod-template-hash"

_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_FNV_OFFSET = 2166136261
_FNV_PRIME = 16777619


def template_hash(template: dict[str, Any], collision_count: int = 0) -> str:
    """At most ten safe characters for the template."""
    text = json.dumps(_significant(template), sort_keys=True, separators=(",", ":"))
    value = _FNV_OFFSET
    for byte in f"{text}{collision_count or ''}".encode():
        value = ((value ^ byte) * _FNV_PRIME) & 0xFFFFFFFF
    return "".join(_LETTERS[ord(digit) % len(_LETTERS)] for digit in str(value))


def is_same_template(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two templates make the same pods, the hash label aside."""
    return bool(_significant(one) == _significant(other))


def _significant(template: dict[str, Any]) -> Any:
    metadata = template.get("metadata") or {}
    labels = {key: value for key, value in (metadata.get("labels") or {}).items() if key != HASH_LABEL}
    return _pruned({**template, "metadata": {**metadata, "labels": labels}})


def _pruned(value: Any) -> Any:
    """Without nulls and empty containers, which mean the same as absence in a template."""
    if isinstance(value, dict):
        pruned = {key: _pruned(part) for key, part in value.items()}
        return {key: part for key, part in pruned.items() if part is not None and part != {} and part != []}
    if isinstance(value, list):
        return [_pruned(part) for part in value]
    return value
