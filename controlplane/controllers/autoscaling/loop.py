"""The autoscaler loop: a workload has as many pods as its metrics call for.

Watches HorizontalPodAutoscalers and Pods; reads the target's `scale`, what the pods use (`sources`), and every
`sync_seconds` asks each metric for a number of pods (`replicas`), takes the highest, steadies and limits it
(`behavior`), writes it to the target's `scale`, and says in status and events what it did and why. Without
autoscalers nothing is asked and nothing runs.

What was recommended lately is only in memory: after a restart the present number of pods counts as recommended, so
that nothing shrinks at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from controlplane.controllers.autoscaling.behavior import Memory
from controlplane.controllers.autoscaling.decide import Observed, Outcome, Problem, decide, failed, needs_metrics
from controlplane.controllers.autoscaling.decide import Result as MetricResult
from controlplane.controllers.autoscaling.replicas import DEFAULT_TOLERANCE, Facts, NoMetric, Tolerance, propose
from controlplane.controllers.autoscaling.sources import Sources
from controlplane.controllers.scales import NoScale, Scales
from pyk.api.kinds import HORIZONTAL_POD_AUTOSCALER, POD, Kind
from pyk.api.objects import Object, is_deleting, key_of, labels_of, namespace_of
from pyk.api.quantity import parse_quantity
from pyk.api.selectors import matches, parse_label_selector
from pyk.api.status import ApiError
from pyk.client.client import Client
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.actions import UpdateStatus, apply
from pyk.reconcile.clock import Clock, timestamp
from pyk.reconcile.controller import Controller, Result

SYNC_SECONDS = 3.0

_REASONS = {
    "Resource": "FailedGetResourceMetric",
    "ContainerResource": "FailedGetContainerResourceMetric",
    "Pods": "FailedGetPodsMetric",
    "Object": "FailedGetObjectMetric",
    "External": "FailedGetExternalMetric",
}


class AutoscalerLoop:
    """Reads, decides and carries out; one autoscaler at a time per worker."""

    def __init__(
        self,
        client: Client,
        recorder: EventRecorder,
        clock: Clock,
        informers: Mapping[Kind, Informer],
        *,
        sync_seconds: float = SYNC_SECONDS,
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._clock = clock
        self._autoscalers = informers[HORIZONTAL_POD_AUTOSCALER]
        self._pods = informers[POD]
        self._scales = Scales(client, informers)
        self._sources = Sources(client, clock, self._pods)
        self._sync = sync_seconds
        self._memories: dict[str, Memory] = {}
        self.controller = Controller("autoscaler", self.reconcile, clock=clock, workers=5, max_delay=30.0)
        self._autoscalers.add_handler(self._on_autoscaler)
        self.controller.waits_for(self._autoscalers, self._pods)

    def _on_autoscaler(self, old: Object | None, new: Object | None) -> None:
        if new is None:
            if old is not None:
                self._memories.pop(key_of(old), None)
        elif old is None or old.get("spec") != new.get("spec"):  # its status is written here, at every turn
            self.controller.enqueue(key_of(new))

    async def reconcile(self, key: str) -> Result | None:
        """See to one autoscaler, and come again after the sync interval."""
        autoscaler = self._autoscalers.get(key)
        if autoscaler is None or is_deleting(autoscaler):
            self._memories.pop(key, None)
            return None
        reference, namespace = autoscaler["spec"]["scaleTargetRef"], namespace_of(autoscaler)
        try:
            scale = await self._scales.read(namespace, reference)
        except (NoScale, ApiError) as error:
            text = f"the HPA controller was unable to get the target's current scale: {error}"
            unknown = Observed(autoscaler, 0, (), Memory(), self._clock.time(), self._clock.monotonic())
            await self._tell(autoscaler, failed(unknown, "FailedGetScale", text))
            return Result(self._sync)
        current = int((scale.get("spec") or {}).get("replicas") or 0)
        memory = self._memories.get(key)
        if memory is None:
            memory = self._memories[key] = Memory([(self._clock.monotonic(), current)])
        results = await self._ask(autoscaler, scale) if needs_metrics(autoscaler, current) else []
        observed = Observed(autoscaler, current, results, memory, self._clock.time(), self._clock.monotonic())
        outcome = decide(observed)
        if outcome.recommendation is not None:
            memory.recommend(outcome.recommendation, observed.moment)
        if outcome.replicas is not None:
            outcome = await self._rescale(observed, outcome, scale)
        await self._tell(autoscaler, outcome)
        return Result(self._sync)

    async def _ask(self, autoscaler: Object, scale: Object) -> list[MetricResult]:
        """What each metric asks for, or why it asks for nothing."""
        namespace = namespace_of(autoscaler)
        selector = (scale.get("status") or {}).get("selector") or ""
        metrics = autoscaler["spec"].get("metrics") or []
        if not selector:
            text = "the HPA target's scale is missing a selector"
            return [Problem("InvalidSelector", text) for _ in metrics]
        chosen = parse_label_selector(selector)
        pods = [pod for pod in self._pods.by_index("namespace", namespace) if matches(chosen, labels_of(pod))]
        facts = Facts(
            pods,
            int((scale.get("spec") or {}).get("replicas") or 0),
            int((scale.get("status") or {}).get("replicas") or 0),
            self._clock.time(),
            tolerance=_tolerance(autoscaler),
        )
        return [await self._ask_one(metric, facts, namespace, selector) for metric in metrics]

    async def _ask_one(self, metric: Mapping[str, Any], facts: Facts, namespace: str, selector: str) -> MetricResult:
        kind = metric["type"]
        try:
            samples, total = {}, 0
            if kind in ("Resource", "ContainerResource"):
                source = metric["resource" if kind == "Resource" else "containerResource"]
                container = source.get("container") or ""
                samples = await self._sources.of_resource(namespace, selector, source["name"], container)
            elif kind == "Pods":
                samples = await self._sources.of_pods(facts.pods, metric["pods"]["metric"])
            elif kind == "Object":
                source = metric["object"]
                total = await self._sources.of_object(namespace, source["describedObject"], source["metric"])
            else:
                total = await self._sources.of_namespace(namespace, metric["external"]["metric"])
            given = Facts(facts.pods, facts.current, facts.present, facts.now, samples, total, facts.tolerance)
            return propose(metric, given)
        except NoMetric as error:
            return Problem(_REASONS[kind], f"failed to get {_words(metric)}: {error}")

    async def _rescale(self, observed: Observed, outcome: Outcome, scale: Object) -> Outcome:
        """Set the target's number of pods; the outcome with what came of it."""
        autoscaler, replicas = observed.autoscaler, outcome.replicas
        assert replicas is not None
        try:
            scale["spec"] = {**(scale.get("spec") or {}), "replicas": replicas}
            await self._scales.write(namespace_of(autoscaler), autoscaler["spec"]["scaleTargetRef"], scale)
        except ApiError as error:
            if error.reason == "Conflict":
                raise  # the target has changed meanwhile: look again at once
            text = f"New size: {replicas}; reason: {outcome.reason}; error: {error.message}"
            self._recorder.event(autoscaler, "Warning", "FailedRescale", text)
            text = f"the HPA controller was unable to update the target scale: {error.message}"
            return failed(observed, "FailedUpdateScale", text)
        observed.memory.resize(observed.current, replicas, observed.moment)
        text = f"the HPA controller was able to update the target scale to {replicas}"
        for condition in outcome.status["conditions"]:
            if condition["type"] == "AbleToScale":
                condition |= {"reason": "SucceededRescale", "message": text}
        outcome.status["lastScaleTime"] = timestamp(observed.now)
        outcome.events.append(("Normal", "SuccessfulRescale", f"New size: {replicas}; reason: {outcome.reason}"))
        return outcome

    async def _tell(self, autoscaler: Object, outcome: Outcome) -> None:
        for event in outcome.events:
            self._recorder.event(autoscaler, *event)
        if outcome.status != (autoscaler.get("status") or {}):
            await apply(self._client, self._recorder, [UpdateStatus({**autoscaler, "status": outcome.status})])


def _tolerance(autoscaler: Object) -> Tolerance:
    behavior = autoscaler["spec"].get("behavior") or {}
    up, down = ((behavior.get(direction) or {}).get("tolerance") for direction in ("scaleUp", "scaleDown"))
    return Tolerance(
        parse_quantity(up) if up is not None else DEFAULT_TOLERANCE,
        parse_quantity(down) if down is not None else DEFAULT_TOLERANCE,
    )


def _words(metric: Mapping[str, Any]) -> str:
    match metric["type"]:
        case "Resource":
            target = metric["resource"]["target"]
            return f"{metric['resource']['name']} {'usage' if target.get('averageValue') else 'utilization'}"
        case "ContainerResource":
            return f"{metric['containerResource']['name']} container metric value"
        case "Pods":
            return "pods metric value"
        case "Object":
            return "object metric value"
        case _:
            return f"{metric['external']['metric']['name']} external metric"
