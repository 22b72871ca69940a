"""Label and field selectors: what Kubernetes reads, refuses, matches and writes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyk.api.selectors import (
    EVERYTHING,
    BadSelector,
    FieldRequirement,
    Requirement,
    format_selector,
    from_document,
    from_labels,
    matches,
    parse_field_selector,
    parse_label_selector,
)


def requirement(key: str, operator: Any, *values: str) -> Requirement:
    return Requirement(key, operator, frozenset(values))


# After apimachinery's TestSetSelectorParser.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", EVERYTHING),
        ("  ", EVERYTHING),
        ("\rx", (requirement("x", "exists"),)),
        ("this-is-a-dns.domain.com/key-with-dash", (requirement("this-is-a-dns.domain.com/key-with-dash", "exists"),)),
        (
            "0.1.2.domain/99 notin (10.10.1, tick.tock)",
            (requirement("0.1.2.domain/99", "notin", "10.10.1", "tick.tock"),),
        ),
        ("foo  in\t (abc)", (requirement("foo", "in", "abc"),)),
        ("x notin\n (abc)", (requirement("x", "notin", "abc"),)),
        ("x in (abc,)", (requirement("x", "in", "abc", ""),)),
        ("x in ()", (requirement("x", "in", ""),)),
        (
            "x notin (abc,,def),bar,z in (),w",
            (
                requirement("bar", "exists"),
                requirement("w", "exists"),
                requirement("x", "notin", "abc", "", "def"),
                requirement("z", "in", ""),
            ),
        ),
        ("x,y in (a)", (requirement("x", "exists"), requirement("y", "in", "a"))),
        ("x=a", (requirement("x", "=", "a"),)),
        ("x==a", (requirement("x", "=", "a"),)),
        ("x>1", (requirement("x", ">", "1"),)),
        ("x>1,z <5", (requirement("x", ">", "1"), requirement("z", "<", "5"))),
        (
            "x=a,y!=b,z in (h,i,j)",
            (requirement("x", "=", "a"), requirement("y", "!=", "b"), requirement("z", "in", "h", "i", "j")),
        ),
        ("x=,z= ", (requirement("x", "=", ""), requirement("z", "=", ""))),
        ("!x", (requirement("x", "!"),)),
        ("! x ,y", (requirement("x", "!"), requirement("y", "exists"))),
        ("a in (x,y,notin, z,in)", (requirement("a", "in", "x", "y", "notin", "z", "in"),)),
        ("a ", (requirement("a", "exists"),)),
    ],
)
def test_a_selector_is_read(text: str, expected: tuple[Requirement, ...]) -> None:
    assert parse_label_selector(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "x=a||y=b",
        "x==a==b",
        "!x=a",
        "x,,y",
        ",x,y",
        "x,",
        "x nott in (y)",
        "a in (xyz),",
        "a in (xyz)b notin ()",
        "a b",
        "a in (xyz abc)",
        "a notin(",
        "a (",
        "(",
        ")",
        "x in (a",
        "x>a",
        "x<",
        "x>1.5",
        "x=-",
        "X Y=1",
        "a/b/c=1",
        "x=a b",
    ],
)
def test_what_is_no_selector_is_refused(text: str) -> None:
    with pytest.raises(BadSelector):
        parse_label_selector(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("a===b", "unable to parse requirement: found '=', expected: identifier"),
        ("a=b=c", "found '=', expected: ',' or 'end of string'"),
        ("a,", "found '', expected: identifier after ','"),
        ("=a", "found '=', expected: !, identifier, or 'end of string'"),
        ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("-a", 'unable to parse requirement: <nil>: Invalid value: "-a": name part must consist of'),
    ],
)
def test_a_refusal_says_what_was_found_and_what_was_expected(text: str, words: str) -> None:
    with pytest.raises(BadSelector) as refused:
        parse_label_selector(text)
    assert str(refused.value).startswith(words)


@pytest.mark.parametrize(
    ("selector", "labels", "expected"),
    [
        ("", {}, True),
        ("x=y", {"x": "y"}, True),
        ("x=y", {"x": "z"}, False),
        ("x=y", {}, False),
        ("x=", {"x": ""}, True),
        ("x=", {}, False),
        ("x!=y", {}, True),
        ("x!=y", {"x": "y"}, False),
        ("x", {"x": ""}, True),
        ("!x", {"x": ""}, False),
        ("!x", {"y": "1"}, True),
        ("x in (a,b)", {"x": "b"}, True),
        ("x in (a,b)", {}, False),
        ("x notin (a,b)", {}, True),
        ("x notin (a,b)", {"x": "a"}, False),
        ("x>1", {"x": "2"}, True),
        ("x>1", {"x": "1"}, False),
        ("x>1", {"x": "a"}, False),
        ("x>1", {}, False),
        ("x=a,y=b", {"x": "a", "y": "b", "z": "c"}, True),
        ("x=a,y=b", {"x": "a"}, False),
    ],
)
def test_a_selector_matches_labels(selector: str, labels: dict[str, str], expected: bool) -> None:
    assert matches(parse_label_selector(selector), labels) is expected


def test_a_missing_selector_selects_nothing_and_an_empty_one_everything() -> None:
    assert from_document(None) is None
    assert from_document({}) == EVERYTHING
    assert matches(EVERYTHING, None)


def test_a_selector_document_is_read_in_the_order_of_its_keys() -> None:
    document = {
        "matchLabels": {"tier": "web", "app": "a"},
        "matchExpressions": [
            {"key": "zone", "operator": "In", "values": ["b", "a"]},
            {"key": "old", "operator": "DoesNotExist"},
            {"key": "new", "operator": "Exists"},
            {"key": "env", "operator": "NotIn", "values": ["dev"]},
        ],
    }
    selector = from_document(document)
    assert selector is not None
    assert format_selector(selector) == "app=a,env notin (dev),new,!old,tier=web,zone in (a,b)"


@pytest.mark.parametrize(
    "expression",
    [
        {"key": "a", "operator": "Near"},
        {"key": "a", "operator": "In"},
        {"key": "a", "operator": "NotIn", "values": []},
        {"key": "a b", "operator": "Exists"},
        {"key": "a", "operator": "In", "values": ["-"]},
    ],
)
def test_a_bad_selector_document_is_refused(expression: dict[str, Any]) -> None:
    with pytest.raises(BadSelector):
        from_document({"matchExpressions": [expression]})


keys = st.from_regex(r"[a-z]([-a-z0-9]{0,8}[a-z0-9])?", fullmatch=True)
values = st.from_regex(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,6}[A-Za-z0-9])?)?", fullmatch=True)
some_values = st.frozensets(values, min_size=1, max_size=3)
one_value = st.frozensets(values, min_size=1, max_size=1)
a_requirement = st.one_of(
    st.builds(Requirement, keys, st.sampled_from(["=", "!="]), one_value),
    st.builds(Requirement, keys, st.sampled_from(["in", "notin"]), some_values),
    st.builds(Requirement, keys, st.sampled_from(["exists", "!"])),
)


@given(st.lists(a_requirement, max_size=4))
def test_a_written_selector_is_read_back(requirements: list[Requirement]) -> None:
    expected = sorted(requirements, key=lambda each: each.key)
    assert list(parse_label_selector(format_selector(tuple(requirements)))) == expected


@given(st.dictionaries(keys, values, max_size=4))
def test_labels_select_themselves(labels: dict[str, str]) -> None:
    assert matches(from_labels(labels), labels)
    assert matches(from_labels(labels), {**labels, "one-more": "1"})
    for key in labels:
        assert not matches(from_labels(labels), {other: value for other, value in labels.items() if other != key})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("metadata.name=web", (FieldRequirement("metadata.name", True, "web"),)),
        ("metadata.name==web", (FieldRequirement("metadata.name", True, "web"),)),
        ("a=1,b!=2", (FieldRequirement("a", True, "1"), FieldRequirement("b", False, "2"))),
        ("spec.nodeName=", (FieldRequirement("spec.nodeName", True, ""),)),
        ("spec.nodeName!=", (FieldRequirement("spec.nodeName", False, ""),)),
        (r"a=x\,y,b=p\=q", (FieldRequirement("a", True, "x,y"), FieldRequirement("b", True, "p=q"))),
        (r"a=x\\,b=1", (FieldRequirement("a", True, "x\\"), FieldRequirement("b", True, "1"))),
        (",a=1,", (FieldRequirement("a", True, "1"),)),
    ],
)
def test_a_field_selector_is_read(text: str, expected: tuple[FieldRequirement, ...]) -> None:
    assert parse_field_selector(text) == expected


@pytest.mark.parametrize("text", ["a", "=b", "a=b=c", r"a=\x", "a=b\\", "!=x", "a,b=1", "a in (b)"])
def test_what_is_no_field_selector_is_refused(text: str) -> None:
    with pytest.raises(BadSelector):
        parse_field_selector(text)


@given(st.text(max_size=20))
def test_every_value_can_be_asked_for_when_escaped(value: str) -> None:
    escaped = value.replace("\\", r"\\").replace(",", r"\,").replace("=", r"\=")
    assert parse_field_selector(f"metadata.name={escaped}") == (FieldRequirement("metadata.name", True, value),)
