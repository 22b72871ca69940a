"""What was worked out for one document serves its equals, and only them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pyk.api.remembering import ENTRIES, LONGEST, remembered, text_of
from pyk.api.status import FieldError

calls: list[dict[str, Any]] = []


@remembered
def check(document: dict[str, Any], path: str) -> Iterator[FieldError]:
    calls.append(document)
    if document.get("bad"):
        yield FieldError.required(f"{path}.good")


def test_an_equal_document_is_not_checked_again_but_fails_again() -> None:
    calls.clear()
    for _ in range(3):
        assert list(check({"bad": True}, "spec")) == [FieldError.required("spec.good")]
    assert len(calls) == 1
    assert list(check({"bad": False}, "spec")) == []
    assert list(check({"bad": True}, "template.spec")) == [FieldError.required("template.spec.good")]
    assert len(calls) == 3


def test_a_document_that_changed_in_place_is_another_one() -> None:
    document = {"bad": False}
    assert list(check(document, "x")) == []
    document["bad"] = True
    assert list(check(document, "x")) == [FieldError.required("x.good")]


def test_the_memory_is_bounded_in_entries_and_in_bytes() -> None:
    calls.clear()
    for number in range(ENTRIES + 1):
        list(check({"number": number}, "spec"))
    list(check({"number": 0}, "spec"))
    assert len(calls) == ENTRIES + 2
    long = {"text": "x" * LONGEST}
    assert text_of(long) is None
    list(check(long, "spec"))
    list(check(long, "spec"))
    assert len(calls) == ENTRIES + 4


def test_what_json_cannot_say_is_checked_each_time() -> None:
    assert text_of({"number": 10**30}) is None
    assert list(check({"bad": 10**30}, "spec")) == [FieldError.required("spec.good")]
