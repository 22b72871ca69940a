"""JSONPath templates give what kubectl gives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyk.cli.jsonpath import evaluate, parse_jsonpath
from pyk.errors import UserError

PODS = {
    "kind": "List",
    "items": [
        {
            "metadata": {"name": "a", "labels": {"app.kubernetes.io/name": "x"}},
            "spec": {"containers": [{"name": "one", "image": "i1"}, {"name": "two", "image": "i2"}]},
            "status": {"restarts": 3, "ready": True},
        },
        {"metadata": {"name": "b"}, "spec": {"containers": []}, "status": {"restarts": 7, "ready": False}},
    ],
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{.kind}", "List"),
        (".kind", "List"),
        ("kind", "List"),
        ("{.items[*].metadata.name}", "a b"),
        ("{.items[0].metadata.name}", "a"),
        ("{.items[-1].metadata.name}", "b"),
        ("{.items[0:1].metadata.name}", "a"),
        ("{.items[5].metadata.name}", ""),
        ("{.items[0]['metadata']['name']}", "a"),
        ("{.items[0].metadata.labels.app\\.kubernetes\\.io/name}", "x"),
        ("{.items[0].metadata['labels']}", '{"app.kubernetes.io/name":"x"}'),
        ("{..image}", "i1 i2"),
        ('{.items[?(@.metadata.name=="b")].status.restarts}', "7"),
        ("{.items[?(@.status.restarts>3)].metadata.name}", "b"),
        ("{.items[?(@.status.ready==true)].metadata.name}", "a"),
        ("{.items[?(@.metadata.labels)].metadata.name}", "a"),
        ('{range .items[*]}{.metadata.name}{"\\t"}{.status.restarts}{"\\n"}{end}', "a\t3\nb\t7\n"),
        ("{range .items[*]}[{.metadata.name}]{end}", "[a][b]"),
        ("name={.items[0].metadata.name};", "name=a;"),
        ("{.items[0].spec.containers[*]['name','image']}", "one i1 two i2"),
        ("{.items[0].status.ready}", "true"),
        ("{$.kind}", "List"),
        ("{@.kind}", "List"),
        ("{.items[*]['metadata.name']}", ""),
        ("{.nothing.at.all}", ""),
    ],
)
def test_templates(template: str, text: str) -> None:
    assert evaluate(parse_jsonpath(template), PODS) == text


@pytest.mark.parametrize(
    "template", ["{range .items[*]}x", "{end}", "{.items[?(]}", "{.items[?(@.a == b c)]}", "{.a b}"]
)
def test_what_cannot_be_understood_is_refused_in_one_line(template: str) -> None:
    with pytest.raises(UserError) as raised:
        evaluate(parse_jsonpath(template), PODS)
    assert "jsonpath" in str(raised.value)
    assert "\n" not in str(raised.value)


@given(st.text(alphabet=st.characters(blacklist_characters="{}"), min_size=0, max_size=20))
def test_text_around_expressions_stays_as_it_is(text: str) -> None:
    assert evaluate(parse_jsonpath(text + "{.kind}" + text), PODS) == f"{text}List{text}"
