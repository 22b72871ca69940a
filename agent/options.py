"""What an administrator decides about a node's resources, in the kubelet's words: KubeletConfiguration files or flags.

Files are read in order, later ones add to earlier ones and win (a map such as evictionHard is replaced whole); flags
win over files. Of KubeletConfiguration (kubelet.config.k8s.io/v1beta1) the fields below are known; any other is
refused, as is a value that means nothing, with one line that names file and field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from agent.capacity import parse_reservation, total_reserved
from agent.cpus.manager import POLICIES
from agent.cpus.topology import format_cpus, parse_cpus
from agent.eviction import thresholds as signals
from agent.eviction.thresholds import Threshold, thresholds
from agent.pods.resources import Amounts
from pyk.api.duration import parse_go_duration
from pyk.api.quantity import BadQuantity, whole

API_VERSION, KIND = "kubelet.config.k8s.io/v1beta1", "KubeletConfiguration"
DROP_INS = "*.conf"
EVICTION_HARD = {
    signals.MEMORY: "100Mi",
    signals.NODE_DISK: "10%",
    signals.NODE_INODES: "5%",
    signals.IMAGE_DISK: "15%",
    signals.IMAGE_INODES: "5%",
    signals.PIDS: "5%",
}
"""The kubelet's defaults, and one for processes, which it leaves to the administrator."""


class BadOptions(ValueError):
    """A configuration that cannot be followed; the text is for people."""


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """The decisions, with the kubelet's defaults. Seconds, bytes; quantities in maps stay as they are written."""

    kube_reserved: Mapping[str, str] = field(default_factory=dict)
    system_reserved: Mapping[str, str] = field(default_factory=dict)
    enforce_node_allocatable: Sequence[str] = ("pods",)
    eviction_hard: Mapping[str, str] = field(default_factory=lambda: dict(EVICTION_HARD))
    eviction_soft: Mapping[str, str] = field(default_factory=dict)
    eviction_soft_grace_period: Mapping[str, float] = field(default_factory=dict)
    eviction_minimum_reclaim: Mapping[str, str] = field(default_factory=dict)
    eviction_max_pod_grace_period: int = 0
    eviction_pressure_transition_period: float = 300.0
    cpu_manager_policy: str = "none"
    reserved_system_cpus: str = ""
    max_pods: int = 110
    pod_pids_limit: int = 4096
    container_log_max_size: int = 10 << 20
    container_log_max_files: int = 5
    image_gc_high_threshold_percent: int = 85
    image_gc_low_threshold_percent: int = 80
    image_minimum_gc_age: float = 120.0
    allowed_unsafe_sysctls: Sequence[str] = ()

    @property
    def reserved(self) -> Amounts:
        """What is reserved altogether, in the units of capacities; named processors stand for the amount of cpu."""
        total = total_reserved(self.kube_reserved, self.system_reserved)
        cpus = parse_cpus(self.reserved_system_cpus)
        return total | ({"cpu": 1000 * len(cpus)} if cpus else {})

    @property
    def thresholds(self) -> tuple[Threshold, ...]:
        """The eviction thresholds. Raises ValueError."""
        return thresholds(
            self.eviction_hard, self.eviction_soft, self.eviction_soft_grace_period, self.eviction_minimum_reclaim
        )


def options_of(documents: Iterable[tuple[str, Any]], flags: Mapping[str, Any]) -> NodeOptions:
    """The options of configuration files (name and parsed content, in order) and of flags (by field; None: not given).

    Raises `BadOptions`.
    """
    options = NodeOptions()
    for name, document in documents:
        options = replace(options, **_read(name, document))
    options = replace(options, **{name: value for name, value in flags.items() if value is not None})
    _check(options)
    return options


def read_files(files: Iterable[Path], directories: Iterable[Path]) -> list[tuple[str, Any]]:
    """The configuration files, and the drop-ins (`*.conf`) of directories in the order of their names; a directory that
    is not there has none. Raises `BadOptions`."""
    paths = [*files, *(path for directory in directories for path in sorted(directory.glob(DROP_INS)))]
    found = []
    for path in paths:
        try:
            found.append((str(path), yaml.safe_load(path.read_bytes())))
        except (OSError, yaml.YAMLError) as error:
            raise BadOptions(f"{path}: {' '.join(str(error).split())}") from None
    return found


def _read(name: str, document: Any) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise BadOptions(f"{name}: not a {KIND}")
    for key, wanted in (("apiVersion", API_VERSION), ("kind", KIND)):
        if document.get(key) != wanted:
            raise BadOptions(f"{name}: {key} is {document.get(key)!r}, not {wanted}")
    found = {}
    for key, value in document.items():
        if key in ("apiVersion", "kind"):
            continue
        if key not in _FIELDS:
            raise BadOptions(f"{name}: {key} is not known here; known are {', '.join(sorted(_FIELDS))}")
        attribute, parse = _FIELDS[key]
        try:
            found[attribute] = parse(value)
        except ValueError as error:
            raise BadOptions(f"{name}: {key}: {error}") from None
    return found


def _check(options: NodeOptions) -> None:
    try:
        _ = options.thresholds
    except ValueError as error:
        raise BadOptions(str(error)) from None
    if options.cpu_manager_policy not in POLICIES:
        raise BadOptions(f"cpuManagerPolicy {options.cpu_manager_policy!r} is not known: it is none or static")
    if not options.container_log_max_files >= 2:
        raise BadOptions("containerLogMaxFiles must be greater than 1")
    if options.container_log_max_size <= 0:
        raise BadOptions("containerLogMaxSize must be positive")
    low, high = options.image_gc_low_threshold_percent, options.image_gc_high_threshold_percent
    if not 0 <= low < high <= 100:
        raise BadOptions("imageGCLowThresholdPercent must be less than imageGCHighThresholdPercent, both from 0 to 100")
    if unknown := [name for name in options.enforce_node_allocatable if name not in ("pods", "none")]:
        raise BadOptions(f"enforceNodeAllocatable: {unknown[0]!r} is not known here; known are pods, none")


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r} is no integer")
    return value


def _map(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError(f"{value!r} is no map")
    return {str(key): str(item) for key, item in value.items()}


def _list(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f"{value!r} is no list")
    return tuple(map(str, value))


def _size(value: Any) -> int:
    try:
        return whole(str(value))
    except BadQuantity as error:
        raise ValueError(str(error)) from None


def _cpus(value: Any) -> str:
    return format_cpus(parse_cpus(str(value)))


def _seconds(value: Any) -> float:
    return parse_go_duration(str(value))


_FIELDS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "kubeReserved": ("kube_reserved", lambda value: parse_reservation(_map(value))),
    "systemReserved": ("system_reserved", lambda value: parse_reservation(_map(value))),
    "enforceNodeAllocatable": ("enforce_node_allocatable", _list),
    "evictionHard": ("eviction_hard", _map),
    "evictionSoft": ("eviction_soft", _map),
    "evictionSoftGracePeriod": (
        "eviction_soft_grace_period",
        lambda value: {signal: _seconds(text) for signal, text in _map(value).items()},
    ),
    "evictionMinimumReclaim": ("eviction_minimum_reclaim", _map),
    "evictionMaxPodGracePeriod": ("eviction_max_pod_grace_period", _integer),
    "evictionPressureTransitionPeriod": ("eviction_pressure_transition_period", _seconds),
    "cpuManagerPolicy": ("cpu_manager_policy", str),
    "reservedSystemCPUs": ("reserved_system_cpus", _cpus),
    "maxPods": ("max_pods", _integer),
    "podPidsLimit": ("pod_pids_limit", _integer),
    "containerLogMaxSize": ("container_log_max_size", _size),
    "containerLogMaxFiles": ("container_log_max_files", _integer),
    "imageGCHighThresholdPercent": ("image_gc_high_threshold_percent", _integer),
    "imageGCLowThresholdPercent": ("image_gc_low_threshold_percent", _integer),
    "imageMinimumGCAge": ("image_minimum_gc_age", _seconds),
    "allowedUnsafeSysctls": ("allowed_unsafe_sysctls", _list),
}


def as_configuration(options: NodeOptions) -> dict[str, Any]:
    """The options as a KubeletConfiguration, as /configz shows it."""
    shown: dict[str, Any] = {"apiVersion": API_VERSION, "kind": KIND}
    values = {each.name: getattr(options, each.name) for each in fields(options)}
    for name, (attribute, _) in _FIELDS.items():
        value = values[attribute]
        if isinstance(value, float):
            value = f"{value:g}s"
        elif attribute == "eviction_soft_grace_period":
            value = {signal: f"{seconds:g}s" for signal, seconds in value.items()}
        elif attribute == "container_log_max_size":
            value = str(value)
        elif isinstance(value, tuple):
            value = list(value)
        shown[name] = dict(value) if isinstance(value, Mapping) else value
    return shown
