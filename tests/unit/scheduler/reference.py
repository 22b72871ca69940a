"""The reference: one node at a time, one rule at a time, plain loops straight from the documentation.

Slow and without arrays: what the scheduler decides must agree with this, always.
"""

from __future__ import annotations

from collections import Counter
from math import floor, log, sqrt
from typing import Any

from pyk.api.quantity import millicores, whole

Json = dict[str, Any]
Placed = dict[str, list[Json]]
Labels = dict[str, str]


class World:
    """Nodes by name, the pods on each of them, and the labels of namespaces."""

    def __init__(self, nodes: dict[str, Json], placed: Placed, namespaces: dict[str, Labels] | None = None) -> None:
        self.nodes = nodes
        self.placed = {name: pods for name, pods in placed.items() if name in nodes}
        self.namespaces = namespaces or {}

    def everywhere(self) -> list[tuple[Json, Json]]:
        """Each pod with its node."""
        return [(pod, self.nodes[name]) for name, pods in self.placed.items() for pod in pods]


def amount(resource: str, text: str) -> int:
    return millicores(text) if resource == "cpu" else whole(text)


def container_requests(container: Json, defaults: dict[str, int]) -> Counter[str]:
    stated = {name: amount(name, text) for name, text in container.get("resources", {}).get("requests", {}).items()}
    return Counter({**defaults, **stated})


def requests(pod: Json, *, for_scoring: bool = False) -> Counter[str]:
    spec = pod["spec"]
    for_all = {name: amount(name, text) for name, text in spec.get("resources", {}).get("requests", {}).items()}
    defaults = {}
    if for_scoring:
        known = requests(pod) if for_all else Counter[str]()
        usual = {"cpu": 100, "memory": 200 * 1024 * 1024}
        defaults = {name: value for name, value in usual.items() if name not in known}
    running: Counter[str] = Counter()
    for container in spec["containers"]:
        running.update(container_requests(container, defaults))
    peak: Counter[str] = Counter()
    sidecars: Counter[str] = Counter()
    for container in spec.get("initContainers", []):
        own = container_requests(container, defaults)
        if container.get("restartPolicy") == "Always":
            running.update(own)
            sidecars.update(own)
            at_this_time = Counter(sidecars)
        else:
            at_this_time = own + sidecars
        peak |= at_this_time
    total = running | peak
    total.update({name: value - total[name] for name, value in for_all.items()})
    for name, text in spec.get("overhead", {}).items():
        total[name] += amount(name, text)
    return +total


def tolerated(taint: Json, tolerations: list[Json]) -> bool:
    for toleration in tolerations:
        if toleration.get("effect") and toleration["effect"] != taint["effect"]:
            continue
        if toleration.get("key") and toleration["key"] != taint["key"]:
            continue
        if value_tolerated(toleration, taint.get("value", "")):
            return True
    return False


def value_tolerated(toleration: Json, value: str) -> bool:
    operator, wanted = toleration.get("operator", "Equal"), toleration.get("value", "")
    if operator == "Gt":
        return bool(wanted.isdigit() and value.isdigit() and int(value) > int(wanted))
    if operator == "Lt":
        return bool(wanted.isdigit() and value.isdigit() and int(value) < int(wanted))
    return bool(operator == "Exists" or wanted == value)


def requirement_holds(requirement: Json, values: dict[str, str]) -> bool:
    value = values.get(requirement["key"])
    listed = requirement.get("values", [])
    match requirement["operator"]:
        case "In":
            return value in listed
        case "NotIn":
            return value not in listed
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case operator:
            if value is None or not value.isdigit():
                return False
            return int(value) > int(listed[0]) if operator == "Gt" else int(value) < int(listed[0])


def term_holds(term: Json, node: Json) -> bool:
    expressions, fields = term.get("matchExpressions", []), term.get("matchFields", [])
    if not expressions and not fields:
        return False
    return all(requirement_holds(r, node["metadata"]["labels"]) for r in expressions) and all(
        requirement_holds(r, {"metadata.name": node["metadata"]["name"]}) for r in fields
    )


def node_affinity(pod: Json) -> Json:
    affinity: Json = pod["spec"].get("affinity", {}).get("nodeAffinity", {})
    return affinity


def host_ports(pod: Json) -> list[tuple[str, str, int]]:
    return [
        (port.get("hostIP", "0.0.0.0"), port.get("protocol", "TCP"), port["hostPort"])
        for container in pod["spec"]["containers"]
        for port in container.get("ports", [])
    ]


def refusals(pod: Json, node: Json, world: World) -> list[str]:
    """The reasons of the first rule that the node breaks; empty when it is feasible."""
    own = own_refusals(pod, node, world.placed.get(node["metadata"]["name"], []))
    others = own or [reason for rule in (spread_refusal, affinity_refusal) if (reason := rule(pod, node, world))]
    return own or others[:1]


def own_refusals(pod: Json, node: Json, present: list[Json]) -> list[str]:
    """The same by the rules that look at nothing but this node."""
    tolerations = pod["spec"].get("tolerations", [])
    required = node_affinity(pod).get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is not None:
        named = [
            [r["values"] for r in term.get("matchFields", []) if r["operator"] == "In"]
            for term in required["nodeSelectorTerms"]
        ]
        name = node["metadata"]["name"]
        if all(named) and not any(all(name in values for values in lists) for lists in named):
            return ["node(s) didn't satisfy plugin(s) [NodeAffinity]"]
    cordon = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
    if node["spec"].get("unschedulable") and not tolerated(cordon, tolerations):
        return ["node(s) were unschedulable"]
    for taint in node["spec"].get("taints", []):
        if taint["effect"] != "PreferNoSchedule" and not tolerated(taint, tolerations):
            return [f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"]
    labels = node["metadata"]["labels"]
    wrong = any(labels.get(key) != value for key, value in pod["spec"].get("nodeSelector", {}).items())
    if wrong or (required is not None and not any(term_holds(term, node) for term in required["nodeSelectorTerms"])):
        return ["node(s) didn't match Pod's node affinity/selector"]
    taken = [port for other in present for port in host_ports(other)]
    for address, protocol, number in host_ports(pod):
        for other_address, other_protocol, other_number in taken:
            same_address = "0.0.0.0" in (address, other_address) or address == other_address
            if same_address and (protocol, number) == (other_protocol, other_number):
                return ["node(s) didn't have free ports for the requested pod ports"]
    reasons = []
    allocatable = {name: amount(name, text) for name, text in node["status"]["allocatable"].items()}
    if len(present) + 1 > allocatable.get("pods", 0):
        reasons.append("Too many pods")
    used: Counter[str] = Counter()
    for other in present:
        used.update(requests(other))
    for name, wanted in requests(pod).items():
        if wanted > allocatable.get(name, 0) - used[name]:
            reasons.append(f"Insufficient {name}")
    return reasons


def least_allocated(pod: Json, node: Json, present: list[Json]) -> int:
    scores = []
    for name in ("cpu", "memory"):
        capacity = amount(name, node["status"]["allocatable"].get(name, "0"))
        if capacity:
            used = sum(requests(each, for_scoring=True)[name] for each in [*present, pod])
            scores.append(0 if used > capacity else (capacity - used) * 100 // capacity)
    return sum(scores) // len(scores) if scores else 0


def balanced(pod: Json, node: Json, present: list[Json]) -> int:
    own = requests(pod)
    if not own["cpu"] and not own["memory"]:
        return 0
    fractions = []
    for name in ("cpu", "memory"):
        capacity = amount(name, node["status"]["allocatable"].get(name, "0"))
        if capacity:
            used = sum(requests(each)[name] for each in [*present, pod])
            fractions.append(min(1.0, used / capacity))
    deviation = abs((fractions[0] - fractions[1]) / 2) if len(fractions) == 2 else 0.0
    if fractions:
        mean = sum(fractions) / len(fractions)
        assert abs(deviation - sqrt(sum((f - mean) ** 2 for f in fractions) / len(fractions))) < 1e-9
    return int((1 - deviation) * 100)


def normalized(raw: dict[str, int], *, is_reversed: bool) -> dict[str, int]:
    highest = max(raw.values(), default=0)
    scaled = {name: value * 100 // highest if highest else 0 for name, value in raw.items()}
    return {name: 100 - value for name, value in scaled.items()} if is_reversed else scaled


# Other pods.


def labels(obj: Json) -> Labels:
    found: Labels = obj["metadata"].get("labels", {})
    return found


def selector_matches(selector: Json | None, values: Labels) -> bool:
    if selector is None:
        return False
    if any(values.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    return all(requirement_holds(r, values) for r in selector.get("matchExpressions", []))


def keys_match(term: Json, own: Labels, other: Labels) -> bool:
    """What matchLabelKeys and mismatchLabelKeys add to a selector."""
    if any(key in own and other.get(key) != own[key] for key in term.get("matchLabelKeys", [])):
        return False
    return not any(key in own and other.get(key) == own[key] for key in term.get("mismatchLabelKeys", []))


def term_means(term: Json, owner: Json, other: Json, world: World) -> bool:
    """Whether the affinity term of the owner's pod means the other pod."""
    namespace = other["metadata"]["namespace"]
    listed, by_label = term.get("namespaces", []), term.get("namespaceSelector")
    if not listed and by_label is None:
        listed = [owner["metadata"]["namespace"]]
    if namespace not in listed and not (
        by_label is not None and selector_matches(by_label, world.namespaces.get(namespace, {}))
    ):
        return False
    return selector_matches(term.get("labelSelector"), labels(other)) and keys_match(term, labels(owner), labels(other))


def rules(pod: Json, direction: str, force: str) -> list[Json]:
    affinity = pod["spec"].get("affinity", {}).get(direction, {})
    found: list[Json] = affinity.get(f"{force}DuringSchedulingIgnoredDuringExecution", [])
    return found


def same_domain(key: str, one: Json, other: Json) -> bool:
    return key in labels(one) and labels(one)[key] == labels(other).get(key)


def affinity_refusal(pod: Json, node: Json, world: World) -> str:
    terms = rules(pod, "podAffinity", "required")
    if terms:
        if any(term["topologyKey"] not in labels(node) for term in terms):
            return "node(s) didn't match pod affinity rules"
        meant = [(o, n) for o, n in world.everywhere() if all(term_means(t, pod, o, world) for t in terms)]
        near = all(any(same_domain(t["topologyKey"], node, n) for _, n in meant) for t in terms)
        anywhere = any(t["topologyKey"] in labels(n) for t in terms for _, n in meant)
        first_of_its_kind = not anywhere and all(term_means(t, pod, pod, world) for t in terms)
        if not near and not first_of_its_kind:
            return "node(s) didn't match pod affinity rules"
    for term in rules(pod, "podAntiAffinity", "required"):
        for other, at in world.everywhere():
            if same_domain(term["topologyKey"], node, at) and term_means(term, pod, other, world):
                return "node(s) didn't match pod anti-affinity rules"
    for other, at in world.everywhere():
        for term in rules(other, "podAntiAffinity", "required"):
            if same_domain(term["topologyKey"], node, at) and term_means(term, other, pod, world):
                return "node(s) didn't satisfy existing pods anti-affinity rules"
    return ""


def affinity_scores(pod: Json, feasible: dict[str, Json], world: World) -> dict[str, int]:
    raw = dict.fromkeys(feasible, 0)
    for name, node in feasible.items():
        for other, at in world.everywhere():
            for direction, sign in (("podAffinity", 1), ("podAntiAffinity", -1)):
                for owner, meant in ((pod, other), (other, pod)):
                    for entry in rules(owner, direction, "preferred"):
                        term = entry["podAffinityTerm"]
                        if same_domain(term["topologyKey"], node, at) and term_means(term, owner, meant, world):
                            raw[name] += sign * entry["weight"]
            for term in rules(other, "podAffinity", "required"):
                if same_domain(term["topologyKey"], node, at) and term_means(term, other, pod, world):
                    raw[name] += 1
    lowest, highest = min(raw.values(), default=0), max(raw.values(), default=0)
    if highest == lowest:
        return dict.fromkeys(feasible, 0)
    return {name: int(100 * ((value - lowest) / (highest - lowest))) for name, value in raw.items()}


def spread_counts(pod: Json, constraint: Json, nodes: list[Json], world: World) -> dict[str, int]:
    """Matching pods by domain, over the nodes that count."""
    required = node_affinity(pod).get("requiredDuringSchedulingIgnoredDuringExecution")
    counts: dict[str, int] = {}
    for node in nodes:
        if constraint.get("nodeAffinityPolicy", "Honor") == "Honor":
            wrong = any(labels(node).get(key) != value for key, value in pod["spec"].get("nodeSelector", {}).items())
            terms = [] if required is None else required["nodeSelectorTerms"]
            if wrong or (required is not None and not any(term_holds(term, node) for term in terms)):
                continue
        if constraint.get("nodeTaintsPolicy") == "Honor" and any(
            taint["effect"] != "PreferNoSchedule" and not tolerated(taint, pod["spec"].get("tolerations", []))
            for taint in node["spec"].get("taints", [])
        ):
            continue
        domain = labels(node).get(constraint["topologyKey"], "")
        on_node = sum(spread_means(pod, constraint, other) for other in world.placed.get(node["metadata"]["name"], []))
        counts[domain] = counts.get(domain, 0) + on_node
    return counts


def spread_means(pod: Json, constraint: Json, other: Json) -> bool:
    """Whether the other pod is counted for the constraint."""
    if other["metadata"]["namespace"] != pod["metadata"]["namespace"] or "deletionTimestamp" in other["metadata"]:
        return False
    return spread_selects(pod, constraint, other)


def spread_selects(pod: Json, constraint: Json, other: Json) -> bool:
    """Whether the constraint's selector means the other pod; what the pod adds itself is counted by this alone."""
    return selector_matches(constraint.get("labelSelector"), labels(other)) and keys_match(
        constraint, labels(pod), labels(other)
    )


def constraints(pod: Json, action: str) -> list[Json]:
    return [each for each in pod["spec"].get("topologySpreadConstraints", []) if each["whenUnsatisfiable"] == action]


def spread_refusal(pod: Json, node: Json, world: World) -> str:
    hard = constraints(pod, "DoNotSchedule")
    keyed = [n for n in world.nodes.values() if all(each["topologyKey"] in labels(n) for each in hard)]
    for each in hard:
        domain = labels(node).get(each["topologyKey"])
        if domain is None:
            return "node(s) didn't match pod topology spread constraints (missing required label)"
        counts = spread_counts(pod, each, keyed, world)
        enough = len(counts) >= each.get("minDomains", 1)
        lowest = min(counts.values()) if enough else 0
        if counts.get(domain, 0) + spread_selects(pod, each, pod) - lowest > each["maxSkew"]:
            return "node(s) didn't match pod topology spread constraints"
    return ""


def spread_scores(pod: Json, feasible: dict[str, Json], world: World) -> dict[str, int]:
    soft = constraints(pod, "ScheduleAnyway")
    if not soft:
        return dict.fromkeys(feasible, 0)
    scored = {n: node for n, node in feasible.items() if all(each["topologyKey"] in labels(node) for each in soft)}
    keyed = [node for node in world.nodes.values() if all(each["topologyKey"] in labels(node) for each in soft)]
    raw = dict.fromkeys(scored, 0.0)
    for each in soft:
        key = each["topologyKey"]
        is_host = key == "kubernetes.io/hostname"
        domains = len(scored) if is_host else len({labels(node)[key] for node in scored.values()})
        counts = spread_counts(pod, each, keyed, world)
        for name, node in scored.items():
            near = counts.get(labels(node)[key], 0)
            if is_host:
                near = sum(spread_means(pod, each, other) for other in world.placed.get(name, []))
            raw[name] += near * log(domains + 2) + each["maxSkew"] - 1
    rounded = {name: floor(value + 0.5) for name, value in raw.items()}
    highest, lowest = max(rounded.values(), default=0), min(rounded.values(), default=0)
    return dict.fromkeys(feasible, 0) | {
        name: 100 * (highest + lowest - value) // highest if highest else 100 for name, value in rounded.items()
    }


def image_score(pod: Json, node: Json, world: World) -> int:
    spec = pod["spec"]
    wanted = [container.get("image", "") for container in [*spec.get("initContainers", []), *spec["containers"]]]
    total = 0
    for image in wanted:
        name = image if ":" in image.rpartition("/")[2] else f"{image}:latest"
        sizes = {
            n: listed["sizeBytes"]
            for n, each in world.nodes.items()
            for listed in each["status"].get("images", [])
            if name in listed["names"]
        }
        total += int(sizes.get(node["metadata"]["name"], 0) * (len(sizes) / len(world.nodes)))
    least, most = 23 * 2**20, 1000 * 2**20 * len(wanted)
    return 100 * (min(max(total, least), most) - least) // (most - least)


def totals(pod: Json, world: World) -> dict[str, int]:
    """The score of every feasible node."""
    feasible = {name: node for name, node in world.nodes.items() if not refusals(pod, node, world)}
    mild = [t for t in pod["spec"].get("tolerations", []) if t.get("effect") in (None, "", "PreferNoSchedule")]
    taints = {
        name: sum(
            taint["effect"] == "PreferNoSchedule" and not tolerated(taint, mild)
            for taint in node["spec"].get("taints", [])
        )
        for name, node in feasible.items()
    }
    preferred = {
        name: sum(
            entry["weight"]
            for entry in node_affinity(pod).get("preferredDuringSchedulingIgnoredDuringExecution", [])
            if term_holds(entry["preference"], node)
        )
        for name, node in feasible.items()
    }
    by_taints, by_affinity = normalized(taints, is_reversed=True), normalized(preferred, is_reversed=False)
    by_pods, by_spread = affinity_scores(pod, feasible, world), spread_scores(pod, feasible, world)
    return {
        name: 3 * by_taints[name]
        + 2 * by_affinity[name]
        + 2 * by_pods[name]
        + 2 * by_spread[name]
        + least_allocated(pod, node, world.placed.get(name, []))
        + balanced(pod, node, world.placed.get(name, []))
        + image_score(pod, node, world)
        for name, node in feasible.items()
    }


def message(pod: Json, world: World) -> str:
    """Why no node would do."""
    if not world.nodes:
        return "no nodes available to schedule pods"
    counts = Counter(reason for node in world.nodes.values() for reason in refusals(pod, node, world))
    listed = ", ".join(sorted(f"{count} {reason}" for reason, count in counts.items()))
    return f"0/{len(world.nodes)} nodes are available: {listed}."
