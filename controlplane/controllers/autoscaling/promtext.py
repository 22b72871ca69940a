"""Metrics of pods as Prometheus text: series, and rates of counters. Pure.

A series is named as in the text. A counter `http_requests_total` is offered besides as `http_requests_per_second`: how
fast it grew between two readings of the same pod, from zero where it began anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from pyk.api.selectors import LabelSelector, matches

COUNTER = "_total"
RATE = "_per_second"


@dataclass(frozen=True, slots=True)
class Series:
    """One value under a name and labels."""

    name: str
    labels: Mapping[str, str]
    value: float

    @property
    def identity(self) -> tuple[str, frozenset[tuple[str, str]]]:
        return self.name, frozenset(self.labels.items())


@dataclass(frozen=True, slots=True)
class Reading:
    """All series of a pod at a moment (monotonic seconds)."""

    at: float
    series: Sequence[Series] = field(default_factory=tuple)


def parse(text: str) -> list[Series]:
    """The series of an exposition, without values that are no numbers. Raises ValueError for what is none."""
    return [
        Series(sample.name, sample.labels, float(sample.value))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if math.isfinite(sample.value)
    ]


def with_rates(now: Reading, before: Reading | None) -> list[Series]:
    """The series of a reading and the rates of its counters since an earlier reading."""
    series = list(now.series)
    if before is None or now.at <= before.at:
        return series
    known = {each.identity: each.value for each in before.series}
    for each in now.series:
        if each.name.endswith(COUNTER) and each.identity in known:
            grown = each.value - known[each.identity]
            rate = (grown if grown >= 0 else each.value) / (now.at - before.at)
            series.append(Series(each.name.removesuffix(COUNTER) + RATE, each.labels, rate))
    return series


def total(series: Iterable[Series], name: str, selector: LabelSelector) -> float | None:
    """The sum of the series of a name whose labels are selected; None when there is none."""
    values = [each.value for each in series if each.name == name and matches(selector, each.labels)]
    return math.fsum(values) if values else None
