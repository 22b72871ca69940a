"""The configuration file: a KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1), as kube-scheduler reads it.

In: YAML. Out: back-off times and profiles. Anything that is not understood is refused in one line, so that no setting
silently does nothing. Understood are `profiles` with `schedulerName`, `plugins` (`multiPoint`, `filter`, `score`,
`preScore`, `preFilter`, `postFilter`, each with `enabled` and `disabled`, `*` for all), and `pluginConfig` of the
plugins in `_ARGUMENTS`; plugins of the user's own (plugins.py) are enabled by name like the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from pyk.errors import UserError
from scheduler import plugins
from scheduler.profile import (
    CAPACITY_RATIO,
    DEFAULT_SCHEDULER,
    FILTERS,
    LEAST_ALLOCATED,
    MOST_ALLOCATED,
    WEIGHTS,
    Plugin,
    Profile,
    Strategy,
)
from scheduler.relations import SYSTEM_SPREAD, DefaultSpread
from scheduler.signature import parse_term
from scheduler.usage import RealUsage

API_VERSION = "kubescheduler.config.k8s.io/v1"
KIND = "KubeSchedulerConfiguration"

_POINTS = ("multiPoint", "preFilter", "filter", "postFilter", "preScore", "score")
_ALWAYS = {"SchedulingGates", "PrioritySort", "DefaultBinder", "GangScheduling"}
"""What cannot be switched off; naming it is no mistake."""
_PREEMPTION = "DefaultPreemption"
_KNOWN = {*FILTERS, *WEIGHTS, *_ALWAYS, _PREEMPTION, RealUsage.name}


@dataclass(frozen=True, slots=True)
class Configuration:
    """What the file says; times are seconds."""

    profiles: tuple[Profile, ...] = (Profile(),)
    first_backoff: float = 1.0
    longest_backoff: float = 10.0


class BadConfiguration(UserError):
    """The configuration cannot be understood; the text is one line."""


def load(path: Path) -> Configuration:
    """Read the file. Raises `BadConfiguration`."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadConfiguration(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadConfiguration(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    try:
        return parse(document)
    except UserError as error:
        raise BadConfiguration(f"{path}: {error}") from error


def parse(document: Any) -> Configuration:
    """What the document says. Raises `BadConfiguration`."""
    top = _mapping(document, "the file")
    if (top.get("apiVersion"), top.get("kind")) != (API_VERSION, KIND):
        raise BadConfiguration(f"apiVersion must be {API_VERSION} and kind {KIND}")
    _only(top, ("apiVersion", "kind", "profiles", "podInitialBackoffSeconds", "podMaxBackoffSeconds"), "the file")
    listed = _list(top.get("profiles") or [{}], "profiles")
    profiles = tuple(_profile(each, f"profiles[{index}]") for index, each in enumerate(listed))
    names = [profile.scheduler_name for profile in profiles]
    if len(set(names)) < len(names):
        raise BadConfiguration("profiles: each needs a schedulerName of its own")
    first = _number(top.get("podInitialBackoffSeconds", 1), "podInitialBackoffSeconds", least=1)
    longest = _number(top.get("podMaxBackoffSeconds", 10), "podMaxBackoffSeconds", least=first)
    return Configuration(profiles, float(first), float(longest))


def _profile(document: Any, where: str) -> Profile:
    found = _mapping(document, where)
    _only(found, ("schedulerName", "plugins", "pluginConfig"), where)
    profile = Profile(str(found.get("schedulerName") or DEFAULT_SCHEDULER))
    arguments: dict[str, Mapping[str, Any]] = {}
    for index, entry in enumerate(_list(found.get("pluginConfig") or [], f"{where}.pluginConfig")):
        at = f"{where}.pluginConfig[{index}]"
        one = _mapping(entry, at)
        _only(one, ("name", "args"), at)
        arguments[str(one.get("name"))] = _mapping(one.get("args") or {}, f"{at}.args")
    profile = _with_plugins(profile, _mapping(found.get("plugins") or {}, f"{where}.plugins"), arguments, where)
    own = {plugin.rule.args[0].name for plugin in profile.plugins}
    for name, given in arguments.items():
        if name in own:
            continue
        if name not in _ARGUMENTS:
            raise BadConfiguration(f"{where}.pluginConfig: {name!r} takes no arguments, or is not enabled")
        profile = _ARGUMENTS[name](profile, given, f"{where}.pluginConfig of {name}")
    return profile


def _with_plugins(
    profile: Profile, document: Mapping[str, Any], arguments: Mapping[str, Mapping[str, Any]], where: str
) -> Profile:
    _only(document, _POINTS, f"{where}.plugins")
    filters, weights, own = set(profile.filters), dict(profile.weights), dict[str, tuple[bool, int]]()
    preempts = True
    for point, changes in document.items():
        at = f"{where}.plugins.{point}"
        one = _mapping(changes or {}, at)
        _only(one, ("enabled", "disabled"), at)
        to_filter, to_score = point in ("multiPoint", "filter"), point in ("multiPoint", "score")
        for entry in _list(one.get("disabled") or [], f"{at}.disabled"):
            name = str(_mapping(entry, at).get("name"))
            if name != "*" and name not in _KNOWN:
                raise BadConfiguration(f"{at}.disabled: there is no plugin {name!r}")
            gone = _KNOWN if name == "*" else {name}
            filters -= gone if to_filter else set()
            for each in gone if to_score else ():
                weights.pop(each, None)
            preempts = preempts and not (_PREEMPTION in gone and point in ("multiPoint", "postFilter"))
        for entry in _list(one.get("enabled") or [], f"{at}.enabled"):
            given = _mapping(entry, f"{at}.enabled")
            _only(given, ("name", "weight"), f"{at}.enabled")
            name = str(given.get("name"))
            weight = int(_number(given.get("weight", 0), f"{at}.enabled: the weight of {name}", least=0))
            if name not in _KNOWN:
                rule = plugins.find(name)
                filtering, scoring = own.get(name, (False, 0))
                filtering = filtering or (to_filter and plugins.can_filter(rule))
                own[name] = (filtering, max(scoring, weight or 1) if to_score and plugins.can_score(rule) else scoring)
                continue
            if to_filter and name in FILTERS:
                filters.add(name)
            if to_score and (name in WEIGHTS or name == RealUsage.name):
                weights[name] = weight or WEIGHTS.get(name, 1)
            preempts = preempts or (name == _PREEMPTION and point in ("multiPoint", "postFilter"))
    found = tuple(
        Plugin(_Maker(plugins.find(name)), arguments.get(name, {}), filtering, weight)
        for name, (filtering, weight) in own.items()
    )
    least = profile.least_candidates if preempts else None
    return replace(profile, filters=frozenset(filters), weights=weights, plugins=found, least_candidates=least)


class _Maker:
    """Makes a user's rule for a signature."""

    def __init__(self, *args: type) -> None:
        self.args = args

    def __call__(self, signature: Any, snapshot: Any, arguments: Mapping[str, Any]) -> plugins.PluginRule:
        return plugins.PluginRule(self.args[0], signature, snapshot, arguments)


# Arguments of plugins


def _fit(profile: Profile, arguments: Mapping[str, Any], where: str) -> Profile:
    _only(arguments, (*_TYPE, "scoringStrategy"), where)
    given = _mapping(arguments.get("scoringStrategy") or {}, where)
    _only(given, ("type", "resources", "requestedToCapacityRatio"), where)
    kind = given.get("type") or LEAST_ALLOCATED
    if kind not in (LEAST_ALLOCATED, MOST_ALLOCATED, CAPACITY_RATIO):
        raise BadConfiguration(f"{where}: there is no strategy {kind!r}")
    resources = _resources(given.get("resources"), where) or Strategy().resources
    shape: tuple[tuple[int, int], ...] = ()
    if kind == CAPACITY_RATIO:
        points = _list(_mapping(given.get("requestedToCapacityRatio") or {}, where).get("shape") or [], where)
        shape = tuple((int(point["utilization"]), int(point["score"])) for point in points)
        if not shape or any(a[0] >= b[0] for a, b in pairwise(shape)):
            raise BadConfiguration(f"{where}: requestedToCapacityRatio.shape needs points of growing utilization")
        if any(not 0 <= at <= 100 or not 0 <= score <= 10 for at, score in shape):
            raise BadConfiguration(f"{where}: utilization is 0 to 100, score 0 to 10")
    return replace(profile, strategy=Strategy(kind, resources, shape))


def _balanced(profile: Profile, arguments: Mapping[str, Any], where: str) -> Profile:
    _only(arguments, (*_TYPE, "resources"), where)
    resources = _resources(arguments.get("resources"), where)
    return replace(profile, balanced=tuple(name for name, _ in resources)) if resources else profile


def _resources(given: Any, where: str) -> tuple[tuple[str, int], ...]:
    return tuple(
        (str(_mapping(each, where)["name"]), int(_number(each.get("weight", 1), f"{where}: a weight", least=1)))
        for each in _list(given or [], where)
    )


def _pod_affinity(profile: Profile, arguments: Mapping[str, Any], where: str) -> Profile:
    _only(arguments, (*_TYPE, "hardPodAffinityWeight", "ignorePreferredTermsOfExistingPods"), where)
    weight = int(_number(arguments.get("hardPodAffinityWeight", 1), f"{where}: hardPodAffinityWeight", least=0))
    ignores = bool(arguments.get("ignorePreferredTermsOfExistingPods"))
    return replace(profile, hard_pod_affinity_weight=weight, ignores_preferences_of_existing_pods=ignores)


def _node_affinity(profile: Profile, arguments: Mapping[str, Any], where: str) -> Profile:
    _only(arguments, (*_TYPE, "addedAffinity"), where)
    added = _mapping(arguments.get("addedAffinity") or {}, where)
    _only(added, ("requiredDuringSchedulingIgnoredDuringExecution",), where)
    required = _mapping(added.get("requiredDuringSchedulingIgnoredDuringExecution") or {}, where)
    terms = tuple(parse_term(_mapping(term, where)) for term in _list(required.get("nodeSelectorTerms") or [], where))
    return replace(profile, added_terms=terms or None)


def _spread(profile: Profile, arguments: Mapping[str, Any], where: str) -> Profile:
    _only(arguments, (*_TYPE, "defaultConstraints", "defaultingType"), where)
    listed = _list(arguments.get("defaultConstraints") or [], where)
    kind = arguments.get("defaultingType") or ("List" if listed else "System")
    if kind not in ("System", "List") or (kind == "System" and listed):
        raise BadConfiguration(f"{where}: defaultConstraints go with defaultingType List")
    if kind == "System":
        return replace(profile, spread=SYSTEM_SPREAD)
    constraints = tuple(
        (
            str(each["topologyKey"]),
            int(_number(each.get("maxSkew"), f"{where}: maxSkew", least=1)),
            each.get("whenUnsatisfiable") != "ScheduleAnyway",
        )
        for each in (_mapping(each, where) for each in listed)
    )
    return replace(profile, spread=DefaultSpread(constraints, is_system=False))


def _preemption(profile: Profile, arguments: Mapping[str, Any], where: str) -> Profile:
    _only(arguments, (*_TYPE, "minCandidateNodesPercentage", "minCandidateNodesAbsolute"), where)
    share = int(_number(arguments.get("minCandidateNodesPercentage", 10), f"{where}: the percentage", least=0))
    number = int(_number(arguments.get("minCandidateNodesAbsolute", 100), f"{where}: the number", least=0))
    return replace(profile, least_candidates=(share, number)) if profile.least_candidates else profile


_TYPE = ("apiVersion", "kind")
_ARGUMENTS: Mapping[str, Callable[[Profile, Mapping[str, Any], str], Profile]] = {
    "NodeResourcesFit": _fit,
    "NodeResourcesBalancedAllocation": _balanced,
    "InterPodAffinity": _pod_affinity,
    "NodeAffinity": _node_affinity,
    "PodTopologySpread": _spread,
    "DefaultPreemption": _preemption,
}


# Checks


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise BadConfiguration(f"{where} must be a mapping")
    return value


def _list(value: Any, where: str) -> Sequence[Any]:
    if not isinstance(value, list):
        raise BadConfiguration(f"{where} must be a list")
    return value


def _only(found: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    unknown = [key for key in found if key not in known]
    if unknown:
        raise BadConfiguration(f"{where}: {unknown[0]!r} is not understood; it may have {', '.join(known)}")


def _number(value: Any, where: str, *, least: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < least:
        raise BadConfiguration(f"{where} must be a number of at least {least:g}")
    return value
