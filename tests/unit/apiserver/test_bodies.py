"""What comes in: JSON, YAML and protobuf bodies, checked by the models; and what goes out as whom accepts it."""

from __future__ import annotations

import base64
from contextlib import suppress

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from controlplane.apiserver.decoding import conform, parse_json, parse_yaml
from controlplane.apiserver.encoding import decode, encode, resplice, splice
from controlplane.apiserver.jsonwords import problem_of
from controlplane.apiserver.negotiation import negotiate
from controlplane.apiserver.protobuf import parse_protobuf
from pyk.api.kinds import CONFIG_MAP, DEPLOYMENT, LEASE, POD
from pyk.api.status import ApiError


def check(kind, document, validation="Warn"):
    return conform(kind.model, document, kind=kind.kind, api_version=kind.api_version, field_validation=validation)


def pod(**container):
    return {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", **container}]}}


def test_nulls_are_left_out_and_quantities_become_canonical():
    document = pod(image=None, resources={"limits": {"cpu": "0.5", "memory": 1024}})
    found, warnings = check(POD, document)
    assert warnings == []
    assert found["spec"]["containers"] == [{"name": "c", "resources": {"limits": {"cpu": "500m", "memory": "1024"}}}]


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"),
        ("2026-01-02T05:04:05.678+02:00", "2026-01-02T03:04:05Z"),
        ("0001-01-01T00:00:00+00:00", "0001-01-01T00:00:00Z"),
    ],
)
def test_times_are_kept_in_one_form_whatever_a_client_writes(written, kept):
    lease = {"metadata": {"creationTimestamp": written}, "spec": {"renewTime": written}}
    found = check(LEASE, lease)[0]
    assert found["metadata"]["creationTimestamp"] == kept
    assert found["spec"]["renewTime"][:19] == kept[:19]
    assert len(found["spec"]["renewTime"]) == len("2026-01-02T03:04:05.000000Z")


@pytest.mark.parametrize("wrong", ["yesterday", "2026-01-02T03:04:05", "0001-01-01T00:00:00+01:00"])
def test_what_is_no_time_is_refused(wrong):
    with pytest.raises(ApiError) as caught:
        check(POD, {"metadata": {"creationTimestamp": wrong}, "spec": {"containers": []}})
    assert caught.value.code == 400


@pytest.mark.parametrize(
    ("kind", "document", "code", "part"),
    [
        (POD, pod(image=1), 400, "cannot unmarshal number into Go struct field Container.spec.containers.image"),
        (POD, pod(command="x"), 400, "cannot unmarshal string into Go struct field Container.spec.containers.command"),
        (POD, {"spec": {"containers": {}}}, 400, "of type []v1.Container"),
        (POD, pod(resources={"limits": {"cpu": "many"}}), 400, "quantities must match the regular expression"),
        (POD, {"metadata": "x"}, 400, "of type v1.ObjectMeta"),
        (
            POD,
            pod(ports=[{"containerPort": "x"}]),
            400,
            "spec.containers.ports.containerPort of type int32",
        ),
        (POD, {"spec": {"activeDeadlineSeconds": "x"}}, 400, "of type int64"),
        (POD, pod(ports=[{}]), 422, "spec.containers[0].ports[0].containerPort: Required value"),
        (DEPLOYMENT, {"metadata": {"name": "d"}}, 422, "spec.selector: Required value"),
        (CONFIG_MAP, {"data": {"a": 1}}, 400, "cannot unmarshal number into Go struct field ConfigMap.data.a"),
    ],
)
def test_wrong_documents_are_told_where(kind, document, code, part):
    with pytest.raises(ApiError) as caught:
        check(kind, document)
    assert (caught.value.code, part in caught.value.message) == (code, True), caught.value.message


def test_status_may_leave_out_what_go_cannot():
    status = {"containerStatuses": [{"name": "c"}]}
    found = check(POD, {**pod(), "status": status})[0]["status"]["containerStatuses"][0]
    assert found == {"name": "c", "image": "", "imageID": "", "ready": False, "restartCount": 0}


def test_doubled_fields_are_found_with_their_paths():
    assert parse_json(b'{"a":{"b":1,"b":2},"c":[{"d":1,"d":1}]}')[1] == ["a.b", "c[0].d"]
    assert parse_json(b'{"a":"\\"a\\":","b":{"a":1}}')[1] == []
    assert parse_yaml(b"a: 1\nb: {c: 1, c: 2}\n")[1] == ["b.c"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "unexpected end of JSON input"),
        (b'{"a":', "unexpected end of JSON input"),
        (b"nojson", "invalid character 'o' in literal null (expecting 'u')"),
        (b'{"a":1,}', "invalid character '}' looking for beginning of object key string"),
        (b"{'a'", "invalid character '\\'' looking for beginning of object key string"),
        (b'{"a" 1}', "invalid character '1' after object key"),
        (b'{"a":[{}]"b"}', "invalid character '\"' after object key:value pair"),
        (b"[1,]", "invalid character ']' looking for beginning of value"),
        (b"[1 2]", "invalid character '2' after array element"),
        (b"{}x", "invalid character 'x' after top-level value"),
        (b'"\n"', "invalid character '\\n' in string literal"),
        (b'"\\q"', "invalid character 'q' in string escape code"),
        (b"-.5", "invalid character '.' in numeric literal"),
        (b"1e+}", "invalid character '}' in exponent of numeric literal"),
    ],
)
def test_bad_json_is_told_in_the_words_of_go(text, words):
    assert problem_of(text) == words


@given(st.binary(max_size=12) | st.text(alphabet='{}[]",:1e.-tn \\u', max_size=12).map(str.encode))
def test_what_is_wrong_is_found_in_whatever_is_no_json(text):
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        assert problem_of(text)
    else:
        assert problem_of(text) == "invalid JSON"  # of good JSON nobody asks


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
        lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(), inside, max_size=3),
    )
)
@example({"a": '":'})
def test_a_document_that_says_everything_once_has_no_doubled_fields(value):
    assert parse_json(orjson.dumps({"x": value})) == ({"x": value}, [])


def test_yaml_is_read_as_json_would_be():
    text = b"when: 2026-01-01\nyes: 1\n1: {a: !!binary aGk=}\n"
    with pytest.raises(ValueError, match="bytes is no JSON"):
        parse_yaml(text)
    assert parse_yaml(b"when: 2026-01-01\n2: [1.5, null]\n")[0] == {"when": "2026-01-01", "2": [1.5, None]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"a: [b", "yaml: line 1: did not find expected ',' or ']'"),
        (b"a: 1\nb: [\n c: }", "yaml: line 2: did not find expected node content"),
        (b"a:\n\tb: 1", "yaml: line 2: found character that cannot start any token"),
        (b"a: *nope", "yaml: found undefined alias"),
        (b"? [1]\n: 2", "yaml: found unhashable key"),
        (b"- 1", "json: cannot unmarshal array into Go value of type map[string]interface {}"),
        (b"", "json: cannot unmarshal null into Go value of type map[string]interface {}"),
    ],
)
def test_bad_yaml_is_told_in_the_words_of_go(text, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the whole text is compared below
        parse_yaml(text)
    assert str(caught.value) == words


@given(st.dictionaries(st.text(min_size=1), st.text()), st.integers(1, 2**62), st.integers(1, 2**62))
def test_the_revision_is_spliced_into_the_stored_bytes(labels, first, second):
    obj = {"kind": "X", "metadata": {"name": "a", "resourceVersion": "old", "labels": labels}, "spec": {}}
    stored = encode(obj)
    assert stored.startswith(b'{"metadata":{')
    for wire, revision in ((splice(stored, first), first), (resplice(splice(stored, first), second), second)):
        expected = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(revision)}}
        assert decode(wire) == expected
    assert obj["metadata"]["resourceVersion"] == "old"


# What `kubectl create configmap a --from-literal=a=b` and `create deployment d --image=x` send.
def field(number, value):
    payload = value if isinstance(value, bytes) else value.encode()
    return bytes([number << 3 | 2, len(payload)]) + payload


def envelope(api_version, kind, message):
    types = field(1, api_version) + field(2, kind)
    return b"k8s\x00" + field(1, types) + field(2, message)


def test_a_protobuf_body_is_the_document_that_json_would_be():
    metadata = field(1, "a") + field(3, "default") + field(8, b"") + field(11, field(1, "l") + field(2, "v"))
    message = field(1, metadata) + field(2, field(1, "k") + field(2, "v")) + field(3, field(1, "b") + field(2, b"\xff"))
    assert parse_protobuf(envelope("v1", "ConfigMap", message)) == {
        "kind": "ConfigMap",
        "apiVersion": "v1",
        "metadata": {"name": "a", "namespace": "default", "labels": {"l": "v"}},
        "data": {"k": "v"},
        "binaryData": {"b": base64.b64encode(b"\xff").decode()},
    }


def test_protobuf_knows_pointers_inlined_structs_and_special_types():
    probe = field(1, field(2, field(1, "/") + field(2, b"\x08\x01\x1a\x04http"))) + b"\x10\x05\x38\x00"
    limits = field(1, "cpu") + field(2, field(1, "100m"))
    container = field(1, "c") + field(2, "i") + field(8, field(1, limits)) + field(10, probe) + b"\x80\x01\x00"
    spec = b"\x08\x00" + field(3, field(2, field(2, container)))
    found = parse_protobuf(envelope("apps/v1", "Deployment", field(2, spec)))["spec"]
    assert found["replicas"] == 0
    assert found["template"]["spec"]["containers"] == [
        {
            "name": "c",
            "image": "i",
            "resources": {"limits": {"cpu": "100m"}},
            "livenessProbe": {
                "httpGet": {"path": "/", "port": "http"},
                "initialDelaySeconds": 5,
                "terminationGracePeriodSeconds": 0,
            },
        }
    ]


@given(st.binary(max_size=60))
def test_any_protobuf_body_is_read_or_refused(body):
    for message in (body, b"k8s\x00" + body, envelope("v1", "Pod", body)):
        with suppress(ApiError):
            parse_protobuf(message)


@pytest.mark.parametrize(
    ("accept", "media", "form"),
    [
        ("", "json", ""),
        ("*/*", "json", ""),
        ("application/json", "json", ""),
        ("application/yaml", "yaml", ""),
        ("application/vnd.kubernetes.protobuf,application/json", "json", ""),
        ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", "json", "Table"),
        ("application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json", "json", "Table"),
        ("application/json;as=Table;v=v2;g=meta.k8s.io,application/json", "json", ""),
        ("application/json;as=Novel;v=v1;g=meta.k8s.io,application/yaml", "yaml", ""),
        ("application/yaml;q=0.1,application/json;q=0.9", "json", ""),
        ("text/html,application/*", "json", ""),
    ],
)
def test_the_first_form_that_is_served_is_taken(accept, media, form):
    accepted = negotiate(accept)
    assert (accepted.media, accepted.form) == (media, form)


@pytest.mark.parametrize("accept", ["text/html", "application/json;q=0", "application/json;as=Novel"])
def test_other_forms_are_not_acceptable(accept):
    with pytest.raises(ApiError) as caught:
        negotiate(accept)
    assert caught.value.code == 406


def test_a_stream_is_json_only():
    assert negotiate("application/json;stream=watch", is_stream=True).media == "json"
    with pytest.raises(ApiError):
        negotiate("application/yaml", is_stream=True)


def new_pod(name, **spec):
    document = {
        "metadata": {"name": name, "creationTimestamp": None, "labels": {"of": name}},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "0.5"}}}], **spec},
    }
    return conform(POD.model, document, kind="Pod", api_version="v1", field_validation="Warn", is_new=True)


def test_an_object_like_the_one_before_keeps_what_is_its_own():
    for name in ("one", "two", "two"):
        obj, warnings = new_pod(name)
        assert obj["metadata"] == {"name": name, "labels": {"of": name}}
        assert obj["spec"]["containers"][0]["resources"]["limits"] == {"cpu": "500m"}
        assert not warnings
        obj["spec"]["containers"].clear()  # nobody else's


def test_what_was_wrong_with_an_object_is_wrong_with_the_next_one_too():
    for name in ("one", "two"):
        obj, warnings = new_pod(name, colour="red")
        assert warnings == ['unknown field "spec.colour"']
        assert "colour" not in obj["spec"]
        with pytest.raises(ApiError, match=r"cannot unmarshal number into Go struct field PodSpec\.spec\.nodeName"):
            new_pod(name, nodeName=7)


def changed(document, stored):
    return conform(
        DEPLOYMENT.model, document, kind="Deployment", api_version="apps/v1", field_validation="Warn", stored=stored
    )


def deployment(**changes):
    template = {"spec": {"containers": [{"name": "c", "image": "i"}]}}
    spec = {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": template}
    return {"metadata": {"name": "d"}, "spec": spec | changes, "status": {"replicas": 1}}


def test_a_part_that_did_not_change_is_taken_over_as_a_copy():
    stored = deployment()
    obj, warnings = changed({**deployment(), "metadata": {"name": "d", "labels": None}}, stored)
    assert (obj["metadata"], obj["spec"], obj["status"]) == ({"name": "d"}, stored["spec"], stored["status"])
    assert not warnings
    obj["spec"]["replicas"] = 9
    assert stored["spec"]["replicas"] == 1


def test_a_part_that_is_equal_but_of_another_type_is_looked_at():
    with pytest.raises(ApiError, match="cannot unmarshal bool into Go struct field"):
        changed(deployment(replicas=True), deployment())


def test_what_is_wrong_beside_a_part_that_did_not_change_is_told():
    assert changed({**deployment(), "colour": {}}, deployment())[1] == ['unknown field "colour"']
    obj, warnings = changed(deployment(colour="red"), deployment())
    assert warnings == ['unknown field "spec.colour"']
    assert "colour" not in obj["spec"]
