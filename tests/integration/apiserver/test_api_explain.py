"""`kubectl explain` tells what fields are for, and finds them through lists and references."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("pod", ("KIND:       Pod", "What is wanted of the object.", "spec\t<PodSpec>")),
        ("pod.spec.containers", ("FIELD: containers <[]Container>", "share the", "image\t<string>")),
        ("pods.spec.containers.livenessProbe.httpGet", ("FIELD: httpGet <HTTPGetAction>", "from 200 to 399", "port\t")),
        ("deployment.spec.strategy", ("GROUP:      apps", "How old pods give way to new ones.", "rollingUpdate")),
        ("lease.spec.renewTime", ("VERSION:    v1", "FIELD: renewTime <string>", "renewed it last")),
        ("node.metadata.labels", ("FIELD: labels <map[string]string>", "objects are selected")),
    ],
)
async def test_fields_are_explained(server, path, words):
    code, out, err = await server.kubectl("explain", path)
    assert code == 0, err
    for word in words:
        assert word in out


async def test_a_field_that_is_none_is_said_to_be_none(server):
    code, _, err = await server.kubectl("explain", "pod.spec.nonsense")
    assert (code, 'field "nonsense" does not exist' in err) == (1, True)


async def test_the_whole_tree_is_shown(server):
    code, out, err = await server.kubectl("explain", "deployment", "--recursive")
    assert code == 0, err
    assert out.count("\n") > 500
