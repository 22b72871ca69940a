"""`pyk describe`: one object told for people, with its events."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from pyk.api.kinds import EVENT, NODE, POD, Kind
from pyk.api.objects import Object, annotations_of, labels_of, name_of, namespace_of, uid_of
from pyk.api.quantity import format_millicores, millicores, whole
from pyk.cli.serverside import LAST_APPLIED
from pyk.cli.session import Session, add_connection_options, parse_wanted
from pyk.reconcile.clock import RealClock, parse_timestamp

INDENT = "  "


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser("describe", help="tell of objects in detail, with their events")
    parser.add_argument("what", nargs="+", metavar="KIND [NAME]", help="pod web, node/n1, deploy, ...")
    parser.add_argument("-l", "--selector", default="", metavar="LABELS", help="only objects with these labels")
    parser.add_argument("-A", "--all-namespaces", action="store_true", help="objects of all namespaces")
    add_connection_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    session = Session(arguments)
    texts = []
    for one in parse_wanted(arguments.what):
        if one.names:
            objects = [session.client.get(one.kind, name, session.namespace) for name in one.names]
        else:
            objects = session.client.list(one.kind, session.namespace, label_selector=arguments.selector)["items"] or []
        texts += [_describe(session, one.kind, obj) for obj in objects]
    print("\n\n\n".join(texts) if texts else "No resources found.")
    return 0


def _describe(session: Session, kind: Kind, obj: Object) -> str:
    lines = _head(kind, obj)
    if kind is POD:
        lines += _pod(obj)
    elif kind is NODE:
        lines += _node(obj, _pods_on(session, name_of(obj)))
    else:
        body = {key: value for key, value in obj.items() if key not in ("apiVersion", "kind", "metadata")}
        lines += _hidden(body) if kind.kind == "Secret" else list(_tree(body, 0))
    return "\n".join(lines + _events(session, obj))


def _head(kind: Kind, obj: Object) -> list[str]:
    metadata = obj["metadata"]
    lines = [f"Name:         {name_of(obj)}"]
    if kind.namespaced:
        lines.append(f"Namespace:    {namespace_of(obj)}")
    lines += _map("Labels:", labels_of(obj), "=")
    shown = {key: value for key, value in annotations_of(obj).items() if key != LAST_APPLIED}
    lines += _map("Annotations:", shown, ": ")
    lines.append(f"Created:      {metadata.get('creationTimestamp', '')}")
    if metadata.get("deletionTimestamp"):
        lines.append(f"Terminating:  since {metadata['deletionTimestamp']}")
    for owner in metadata.get("ownerReferences") or ():
        lines.append(f"Owner:        {owner['kind']}/{owner['name']}")
    return lines


def _map(title: str, values: dict[str, str], separator: str) -> list[str]:
    if not values:
        return [f"{title:<14}<none>"]
    texts = [f"{key}{separator}{value}" for key, value in sorted(values.items())]
    return [f"{title:<14}{texts[0]}", *(" " * 14 + text for text in texts[1:])]


def _tree(value: Any, depth: int) -> Iterable[str]:
    pad = INDENT * depth
    if isinstance(value, dict):
        for key, inner in value.items():
            title = key[:1].upper() + key[1:]
            if isinstance(inner, dict | list) and inner:
                yield f"{pad}{title}:"
                yield from _tree(inner, depth + 1)
            else:
                yield f"{pad}{title}: {_scalar(inner)}"
    elif isinstance(value, list):
        for inner in value:
            if isinstance(inner, dict):
                nested = list(_tree(inner, depth + 1))
                yield f"{pad}-{nested[0][len(pad) + 1 :]}" if nested else f"{pad}- {{}}"
                yield from nested[1:]
            else:
                yield f"{pad}- {_scalar(inner)}"


def _scalar(value: Any) -> str:
    if value in ({}, [], None, ""):
        return "<none>"
    return str(value).replace("\n", "\\n")


def _hidden(body: Object) -> list[str]:
    sizes = {key: f"{len(value) * 3 // 4} bytes" for key, value in (body.get("data") or {}).items()}
    return [f"Type:         {body.get('type', '')}", "Data:", *(f"  {key}: {size}" for key, size in sizes.items())]


# Pods


def _pod(pod: Object) -> list[str]:
    spec, status = pod["spec"], pod.get("status") or {}
    lines = [
        f"Node:         {spec.get('nodeName') or '<none>'}{'/' + status['hostIP'] if status.get('hostIP') else ''}",
        f"Status:       {status.get('phase', '')}",
    ]
    if status.get("reason"):
        lines.append(f"Reason:       {status['reason']}: {status.get('message', '')}")
    lines += [
        f"IP:           {status.get('podIP') or '<none>'}",
        f"QoS Class:    {status.get('qosClass', '')}",
        f"Service Account: {spec.get('serviceAccountName', '')}",
    ]
    for title, specs, statuses in (
        ("Init Containers:", "initContainers", "initContainerStatuses"),
        ("Containers:", "containers", "containerStatuses"),
    ):
        known = {entry["name"]: entry for entry in status.get(statuses) or ()}
        if spec.get(specs):
            lines.append(title)
        for container in spec.get(specs) or ():
            lines += _container(container, known.get(container["name"]) or {})
    lines.append("Conditions:")
    for condition in status.get("conditions") or ():
        because = ": ".join(part for part in (condition.get("reason"), condition.get("message")) if part)
        lines.append(f"  {condition['type']:<28}{condition['status']:<9}{because}")
    lines.append("Volumes:" if spec.get("volumes") else "Volumes:      <none>")
    for volume in spec.get("volumes") or ():
        source = next((key for key in volume if key != "name"), "emptyDir")
        lines += [f"  {volume['name']}:", f"    Type: {source}", *_tree(volume.get(source) or {}, 2)]
    lines.append(f"Node-Selectors: {_pairs(spec.get('nodeSelector') or {})}")
    tolerations = [_toleration(entry) for entry in spec.get("tolerations") or ()]
    lines += [f"Tolerations:  {(tolerations or ['<none>'])[0]}", *(" " * 14 + text for text in tolerations[1:])]
    return lines


def _container(container: Object, status: Object) -> list[str]:
    lines = [f"  {container['name']}:", f"    Container ID: {status.get('containerID') or '<none>'}"]
    lines.append(f"    Image: {container.get('image', '')}")
    for name in ("command", "args"):
        if container.get(name):
            lines.append(f"    {name.capitalize()}: {' '.join(container[name])}")
    ports = [f"{port['containerPort']}/{port.get('protocol', 'TCP')}" for port in container.get("ports") or ()]
    lines.append(f"    Ports: {', '.join(ports) or '<none>'}")
    lines += _state("State", status.get("state") or {})
    if status.get("lastState"):
        lines += _state("Last State", status["lastState"])
    lines.append(f"    Ready: {status.get('ready', False)}")
    lines.append(f"    Restart Count: {status.get('restartCount', 0)}")
    for title in ("limits", "requests"):
        amounts = (container.get("resources") or {}).get(title)
        if amounts:
            lines.append(f"    {title.capitalize()}: {_pairs(amounts)}")
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        if container.get(probe):
            lines += [f"    {probe[:-5].capitalize()}:", *_tree(container[probe], 3)]
    lines.append("    Environment:" if container.get("env") else "    Environment: <none>")
    for variable in container.get("env") or ():
        lines.append(f"      {variable['name']}: {variable.get('value', _scalar(variable.get('valueFrom')))}")
    lines.append("    Mounts:" if container.get("volumeMounts") else "    Mounts: <none>")
    for mount in container.get("volumeMounts") or ():
        lines.append(f"      {mount['mountPath']} from {mount['name']} ({'ro' if mount.get('readOnly') else 'rw'})")
    return lines


def _state(title: str, state: Object) -> list[str]:
    for kind, facts in state.items():
        lines = [f"    {title}: {kind.capitalize()}"]
        for name in ("reason", "message", "exitCode", "signal", "startedAt", "finishedAt"):
            if facts.get(name) not in (None, "", 0) or (name == "exitCode" and kind == "terminated"):
                lines.append(f"      {name[:1].upper() + name[1:]}: {_scalar(facts.get(name, 0))}")
        return lines
    return [f"    {title}: Waiting"]


def _pairs(values: dict[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(values.items())) or "<none>"


def _toleration(entry: Object) -> str:
    text = str(entry.get("key", "")) + (f"={entry['value']}" if entry.get("value") else "")
    text += f":{entry['effect']}" if entry.get("effect") else ""
    text += f" op={entry['operator']}" if entry.get("operator") == "Exists" else ""
    return text + (f" for {entry['tolerationSeconds']}s" if "tolerationSeconds" in entry else "")


# Nodes


def _pods_on(session: Session, node: str) -> list[Object]:
    found: list[Object] = session.client.list(POD, field_selector=f"spec.nodeName={node}").get("items") or []
    return [pod for pod in found if (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")]


def _node(node: Object, pods: list[Object]) -> list[str]:
    spec, status = node.get("spec") or {}, node.get("status") or {}
    taints = [f"{t['key']}{'=' + t['value'] if t.get('value') else ''}:{t['effect']}" for t in spec.get("taints") or ()]
    lines = [f"Taints:       {(taints or ['<none>'])[0]}", *(" " * 14 + text for text in taints[1:])]
    lines.append(f"Unschedulable: {str(spec.get('unschedulable', False)).lower()}")
    lines.append("Conditions:")
    for condition in status.get("conditions") or ():
        because = ": ".join(part for part in (condition.get("reason"), condition.get("message")) if part)
        lines.append(f"  {condition['type']:<18}{condition['status']:<9}{because}")
    lines.append("Addresses:")
    lines += [f"  {address['type']}: {address['address']}" for address in status.get("addresses") or ()]
    for title in ("capacity", "allocatable"):
        lines += [f"{title.capitalize()}:", *_tree(status.get(title) or {}, 1)]
    lines += ["System Info:", *_tree(status.get("nodeInfo") or {}, 1)]
    lines.append(f"PodCIDR:      {spec.get('podCIDR', '<none>')}")
    lines.append(f"Non-terminated Pods: ({len(pods)} in total)")
    total_cpu = total_memory = 0
    for pod in pods:
        cpu, memory = requests_of(pod)
        total_cpu, total_memory = total_cpu + cpu, total_memory + memory
        lines.append(
            f"  {namespace_of(pod)}/{name_of(pod):<48} cpu {format_millicores(cpu)}, memory {memory // 2**20}Mi"
        )
    allocatable = status.get("allocatable") or {}
    cpu_share = _share(total_cpu, millicores(allocatable.get("cpu", "0")))
    memory_share = _share(total_memory, whole(allocatable.get("memory", "0")))
    lines.append("Allocated resources:")
    lines.append(f"  cpu     {format_millicores(total_cpu)}{cpu_share}")
    lines.append(f"  memory  {total_memory // 2**20}Mi{memory_share}")
    return lines


def requests_of(pod: Object) -> tuple[int, int]:
    """The sum of the containers' requests: millicores and bytes."""
    cpu = memory = 0
    for container in pod["spec"].get("containers") or ():
        requests = (container.get("resources") or {}).get("requests") or {}
        cpu += millicores(requests.get("cpu", "0"))
        memory += whole(requests.get("memory", "0"))
    return cpu, memory


def _share(amount: int, of: int) -> str:
    return f" ({amount * 100 // of}%)" if of else ""


# Events


def _events(session: Session, obj: Object) -> list[str]:
    selector = f"involvedObject.name={name_of(obj)},involvedObject.kind={obj['kind']}"
    if obj["kind"] != "Node":
        selector += f",involvedObject.uid={uid_of(obj)}"
    events = session.client.list(EVENT, namespace_of(obj), field_selector=selector).get("items") or []
    if not events:
        return ["Events:       <none>"]
    now = RealClock().time()
    lines = ["Events:", f"  {'Type':<9}{'Reason':<22}{'Age':<18}{'From':<24}Message"]
    for event in sorted(events, key=lambda e: str(e.get("lastTimestamp") or e.get("eventTime") or "")):
        source = (event.get("source") or {}).get("component") or event.get("reportingComponent", "")
        lines.append(f"  {event['type']:<9}{event['reason']:<22}{_age(event, now):<18}{source:<24}{event['message']}")
    return lines


def _age(event: Object, now: float) -> str:
    last = event.get("lastTimestamp") or event.get("eventTime")
    if not last:
        return "<unknown>"
    text = _ago(now - parse_timestamp(last))
    count = event.get("count") or 1
    if count > 1 and event.get("firstTimestamp"):
        return f"{text} (x{count} over {_ago(now - parse_timestamp(event['firstTimestamp']))})"
    return text


def _ago(seconds: float) -> str:
    whole_seconds = max(0, int(seconds))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if whole_seconds >= 2 * size:
            return f"{whole_seconds // size}{unit}"
    return f"{whole_seconds}s"
