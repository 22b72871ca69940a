"""The flags of the agent that stand for fields of a KubeletConfiguration, named as the kubelet's.

Each leaves None where it is not given, so that the configuration files decide.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.capacity import parse_reservation
from agent.cpus.manager import POLICIES
from agent.cpus.topology import format_cpus, parse_cpus
from pyk.api.duration import parse_go_duration
from pyk.api.quantity import whole


def add_option_flags(parser: argparse.ArgumentParser) -> None:
    """Add them to a parser; what they are set to has the names of `NodeOptions`' fields."""
    parser.add_argument(
        "--config", type=Path, action="append", default=[], metavar="FILE", help="a KubeletConfiguration in YAML"
    )
    parser.add_argument(
        "--config-dir", type=Path, action="append", default=[], metavar="DIR", help="with more of them, *.conf"
    )
    add = parser.add_argument
    add("--kube-reserved", type=_reservation, metavar="cpu=100m,...", help="for the agent, of cpu, memory, "
        "ephemeral-storage and pid")  # fmt: skip
    add("--system-reserved", type=_reservation, metavar="memory=100Mi,...", help="for the rest of the machine")
    add("--enforce-node-allocatable", type=_words, metavar="pods|none", help="hold all pods together to what is left")
    add("--eviction-hard", type=_thresholds, metavar="memory.available<100Mi,...", help="end pods at once below these")
    add("--eviction-soft", type=_thresholds, metavar="memory.available<1Gi,...", help="... or after a while")
    add("--eviction-soft-grace-period", type=_periods, metavar="memory.available=1m30s,...", help="that while")
    add("--eviction-minimum-reclaim", type=_quantities, metavar="nodefs.available=500Mi,...", help="until so much more "
        "is there")  # fmt: skip
    add("--eviction-max-pod-grace-period", type=int, metavar="SECONDS", help="of pods ended by a soft threshold")
    add("--eviction-pressure-transition-period", type=_duration, metavar="5m0s", help="how long conditions hold on")
    add("--cpu-manager-policy", choices=POLICIES, help="static: whole processors for guaranteed containers")
    add("--reserved-cpus", type=_cpus, dest="reserved_system_cpus", metavar="0-1", help="processors that no "
        "container has for itself")  # fmt: skip
    add("--max-pods", type=int, metavar="110")
    add("--pod-max-pids", type=int, dest="pod_pids_limit", metavar="4096", help="processes and threads of one pod")
    add("--container-log-max-size", type=_size, metavar="10Mi", help="of one file of a log")
    add("--container-log-max-files", type=int, metavar="5", help="of one log")
    add("--image-gc-high-threshold", type=int, dest="image_gc_high_threshold_percent", metavar="85", help="percent")
    add("--image-gc-low-threshold", type=int, dest="image_gc_low_threshold_percent", metavar="80", help="percent")
    add("--minimum-image-ttl-duration", type=_duration, dest="image_minimum_gc_age", metavar="2m0s")
    add("--allowed-unsafe-sysctls", type=_words, metavar="NAME,...", help="sysctls, or NAME*, that pods may set here "
        "beside the safe ones")  # fmt: skip


def _pairs(text: str, separator: str) -> dict[str, str]:
    pairs = {}
    for part in filter(None, text.split(",")):
        name, found, value = part.partition(separator)
        if not found or not value:
            raise argparse.ArgumentTypeError(f"{part!r}: write NAME{separator}VALUE")
        pairs[name] = value
    return pairs


def _told(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """With the error's own words, which argparse would replace."""

    def parsed(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parsed


def _thresholds(text: str) -> dict[str, str]:
    return _pairs(text, "<")


def _quantities(text: str) -> dict[str, str]:
    return _pairs(text, "=")


_reservation = _told(lambda text: parse_reservation(_pairs(text, "=")))
_periods = _told(lambda text: {name: parse_go_duration(value) for name, value in _pairs(text, "=").items()})
_duration = _told(parse_go_duration)
_size = _told(whole)
_cpus = _told(lambda text: format_cpus(parse_cpus(text)))


def _words(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))
