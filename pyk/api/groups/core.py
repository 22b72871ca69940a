"""The core group (v1)."""

from __future__ import annotations

from pyk.api.kind import ALL_VERBS, Kind

KINDS = (
    Kind(
        "",
        "v1",
        "Namespace",
        "namespaces",
        "core_cluster:Namespace",
        namespaced=False,
        short_names=("ns",),
        rules_path="rules.namespaces:RULES",
        has_status=True,
        subresources=("finalize",),
        name_check="dns_label",
        verbs=tuple(verb for verb in ALL_VERBS if verb != "deletecollection"),
    ),
    Kind(
        "",
        "v1",
        "Node",
        "nodes",
        "core_cluster:Node",
        namespaced=False,
        short_names=("no",),
        rules_path="rules.nodes:RULES",
        has_status=True,
        subresources=("proxy",),
    ),
    Kind(
        "",
        "v1",
        "Pod",
        "pods",
        "core_pods:Pod",
        short_names=("po",),
        categories=("all",),
        rules_path="rules.pods:RULES",
        has_status=True,
        has_generation=True,
        subresources=("binding", "log", "exec", "attach"),
        graceful_deletion=True,
    ),
    Kind(
        "",
        "v1",
        "ConfigMap",
        "configmaps",
        "core_config:ConfigMap",
        short_names=("cm",),
        rules_path="rules.config:CONFIG_MAP",
    ),
    Kind("", "v1", "Secret", "secrets", "core_config:Secret", rules_path="rules.config:SECRET"),
    Kind(
        "",
        "v1",
        "ServiceAccount",
        "serviceaccounts",
        "core_config:ServiceAccount",
        short_names=("sa",),
        rules_path="rules.config:SERVICE_ACCOUNT",
    ),
    Kind("", "v1", "Event", "events", "core_config:Event", short_names=("ev",), rules_path="rules.events:RULES"),
)
