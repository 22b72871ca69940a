"""The commands of stories about a node that runs short: what is left of it, which pods run, and a look at both."""

from __future__ import annotations

from typing import Any

from agent.eviction.decide import Past, judge
from agent.eviction.ranking import Candidate, Used, message, ranked, refusal
from agent.eviction.thresholds import CONDITIONS, MEMORY, NODE_DISK, RESOURCES, Observation, Threshold, thresholds
from pyk.api.duration import parse_go_duration
from pyk.api.quantity import whole

Settings = dict[str, str]
_SIGNALS = {"memory": MEMORY, "disk": NODE_DISK}


class PressureActors:
    """A node of 1 GiB of memory and 100 GiB of disk."""

    _thresholds: tuple[Threshold, ...] = ()
    _transition = 60.0
    _now = 0.0
    _past = Past()

    def do_thresholds(self, name: str, settings: Settings) -> list[str]:
        """`hard=memory.available<100Mi soft=... grace=memory.available:30s transition=60s`: what is configured."""
        self._left = {MEMORY: Observation(1 << 30, 1 << 30), NODE_DISK: Observation(100 << 30, 100 << 30)}
        self._running: dict[str, Candidate] = {}
        grace = {signal: parse_go_duration(text) for signal, text in _pairs(settings.get("grace", ""), ":").items()}
        hard, soft = _pairs(settings.get("hard", ""), "<"), _pairs(settings.get("soft", ""), "<")
        self._thresholds = thresholds(hard, soft, grace, {})
        self._transition = parse_go_duration(settings.get("transition", "60s"))
        return []

    def do_runs(self, name: str, settings: Settings) -> list[str]:
        """`runs web memory=300Mi asks=100Mi priority=5`: a pod on the node, what it uses and what it requests."""
        memory, disk = (whole(settings.get(key, "0")) for key in ("memory", "disk"))
        requests = {"memory": settings["asks"]} if "asks" in settings else {}
        spec = {
            "containers": [{"name": "main", "resources": {"requests": requests}}],
            "priority": int(settings.get("priority", "0")),
        }
        pod: Any = {"metadata": {"name": name, "namespace": "default", "uid": name}, "spec": spec}
        used = Used(memory=memory, storage=disk)
        self._running[name] = Candidate(name, pod, used, {"main": used})
        return []

    def do_left(self, name: str, settings: Settings) -> list[str]:
        """`left memory=50Mi disk=5Gi`: what is left of the node from now on."""
        for key, text in settings.items():
            signal = _SIGNALS[key]
            self._left[signal] = Observation(whole(text), self._left[signal].capacity)
        return []

    def do_look(self, name: str, settings: Settings) -> list[str]:
        """`look after=10s`: the conditions that hold, and the pod that is ended."""
        self._now += parse_go_duration(settings.get("after", "0"))
        judged = judge(self._thresholds, self._left, self._past, self._now, self._transition)
        self._past = judged.past
        told = [f"conditions: {', '.join(judged.conditions) or 'none'}"]
        if judged.due:
            threshold, resource = judged.due[0], RESOURCES[judged.due[0].signal]
            order = ranked(self._running.values(), resource)
            for victim in order[:1]:
                told.append(f"end {victim.uid}: {message(victim, threshold, resource, self._left).strip()}")
                del self._running[victim.uid]
            if not order:
                told.append(f"{resource} is short, and there is nobody to end")
        return told

    def do_admit(self, name: str, settings: Settings) -> list[str]:
        """`admit new asks=64Mi`: whether the node, with the conditions that hold, takes a new pod."""
        requests = {"memory": settings["asks"]} if "asks" in settings else {}
        spec = {"containers": [{"name": "main", "resources": {"requests": requests}}]}
        held = {CONDITIONS[MEMORY], CONDITIONS[NODE_DISK]} & set(self._past.last_held)
        refused = refusal({"metadata": {}, "spec": spec}, held)
        return ["takes it" if refused is None else refused.strip()]


def _pairs(text: str, separator: str) -> dict[str, str]:
    return {key: value for key, _, value in (part.partition(separator) for part in text.split(",") if part)}
