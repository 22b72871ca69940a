"""The commands of scenario files about Jobs and CronJobs: the Job, what its pods do, and the loop's steps."""

from __future__ import annotations

import copy
from typing import Any

from controlplane.controllers import cronjob, jobplan, ttlafterfinished
from controlplane.controllers.jobpods import FINALIZER
from pyk.api.kinds import CRON_JOB, JOB
from pyk.api.objects import Object, controller_of, name_of, uid_of
from pyk.reconcile.actions import Create, UpdateStatus
from pyk.reconcile.clock import timestamp
from tests.scenarios.world import World

Settings = dict[str, str]
_NUMBERS = {
    "completions": "completions",
    "parallelism": "parallelism",
    "backoff": "backoffLimit",
    "per_index": "backoffLimitPerIndex",
    "max_failed": "maxFailedIndexes",
    "deadline": "activeDeadlineSeconds",
    "ttl": "ttlSecondsAfterFinished",
}


class JobActors:
    """What `Actors` can do with them."""

    world: World

    def do_job(self, name: str, settings: Settings) -> list[str]:
        """A Job: numbers, `indexed`, `suspended` or `resumed`, `only_failed`, `on_failure`.

        `rule=ACTION:CODE` and `rule=ACTION:CONDITION` are its failure policy, `success=INDEXES` its success policy.
        """
        known = copy.deepcopy(self.world.get("Job", name))
        policy = "OnFailure" if "on_failure" in settings else "Never"
        template = {"metadata": {"labels": {"app": name}}, "spec": {"restartPolicy": policy, "containers": []}}
        metadata = {"name": name, "namespace": "default"}
        job = known or {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"template": template}}
        spec = job["spec"]
        for setting, field in _NUMBERS.items():
            if setting in settings:
                spec[field] = int(settings[setting])
        if "indexed" in settings:
            spec["completionMode"] = "Indexed"
        if "suspended" in settings or "resumed" in settings:
            spec["suspend"] = "suspended" in settings
        if "only_failed" in settings:
            spec["podReplacementPolicy"] = "Failed"
        if "rule" in settings:
            spec["podFailurePolicy"] = {"rules": [_rule(text) for text in settings["rule"].split(",")]}
        if "success" in settings:
            spec["successPolicy"] = {"rules": [{"succeededIndexes": settings["success"]}]}
        JOB.rules.default(job)
        if known is None:
            made = self.world.add(job)
            made["spec"]["selector"] = {"matchLabels": {"app": name}}
        else:
            self.world.replace(job)
        return []

    def do_ended(self, name: str, settings: Settings) -> list[str]:
        """Pods end, all that are named: `succeeded`, or with `code=NUMBER` or `condition=TYPE` as failed."""
        for each in name.split(","):
            pod = copy.deepcopy(self.world.find("Pod", each))
            code = int(settings.get("code", 0 if "succeeded" in settings else 1))
            terminated = {"exitCode": code, "finishedAt": timestamp(self.world.now)}
            phase = "Succeeded" if "succeeded" in settings else "Failed"
            pod["status"] = {
                "phase": phase,
                "containerStatuses": [{"name": "main", "restartCount": 0, "state": {"terminated": terminated}}],
                "conditions": [{"type": settings["condition"], "status": "True"}] if "condition" in settings else [],
            }
            self.world.replace(pod)
        return []

    def do_restarted(self, name: str, settings: Settings) -> list[str]:
        """A container of a running pod has restarted so often: `restarted pod times=3`."""
        pod = copy.deepcopy(self.world.find("Pod", name))
        pod["status"] = {
            "phase": "Running",
            "containerStatuses": [{"name": "main", "restartCount": int(settings["times"]), "state": {}}],
        }
        self.world.replace(pod)
        return []

    def do_work(self, name: str, settings: Settings) -> list[str]:
        """The Job loop takes steps until there is nothing left to do; `once` for one only."""
        lines: list[str] = []
        while step := self._work(name):
            lines += step
            if "once" in settings:
                break
        return lines

    def _work(self, name: str) -> list[str]:
        job = self.world.find("Job", name)
        if jobplan.is_finished(job):
            return []
        pods = [pod for pod in self.world.all("Pod") if (controller_of(pod) or {}).get("uid") == uid_of(job)]
        plan = jobplan.decide(jobplan.Observed(job, pods, self.world.now))
        lines: list[str] = []
        if plan.status is not None:
            stored = copy.deepcopy(job)
            stored["status"] = plan.status
            self.world.replace(stored)
            lines.append(f"status {name}: {_told(plan.status)}")
        lines += [f"event {kind} {reason}: {message}" for kind, reason, message in plan.events]
        for pod in plan.release:
            lines.append(f"release pod {name_of(pod)}")
            self._release(pod)
        for pod in plan.delete:
            lines.append(f"delete pod {name_of(pod)}")
            self.world.delete("Pod", name_of(pod), "Background")
        for pod in plan.create:
            lines.append(f"create pod {self._make(pod)}")
        if plan.again_after is not None and not lines:
            return []
        return [*lines, f"again in {plan.again_after:.0f} s"] if plan.again_after is not None else lines

    def do_outlive(self, name: str, settings: Settings) -> list[str]:
        """The TTL loop looks at a Job."""
        job = self.world.find("Job", name)
        moment = ttlafterfinished.expires_at(job)
        if moment is not None and moment > self.world.now:
            return [f"stays for {moment - self.world.now:.0f} s"]
        return [
            line for action in ttlafterfinished.decide(job, self.world.now) for line in self.world.carry_out(action)
        ]

    # CronJobs

    def do_cronjob(self, name: str, settings: Settings) -> list[str]:
        """A CronJob: `schedule policy zone deadline`, `suspended` or `resumed`, `keep=SUCCESSFUL,FAILED`."""
        known = copy.deepcopy(self.world.get("CronJob", name))
        metadata = {"name": name, "namespace": "default"}
        template = {"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": []}}}}
        spec: dict[str, Any] = {"jobTemplate": template}
        cron_job = known or {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": metadata, "spec": spec}
        spec = cron_job["spec"]
        words = {"schedule": "schedule", "policy": "concurrencyPolicy", "zone": "timeZone"}
        spec |= {field: settings[setting] for setting, field in words.items() if setting in settings}
        if "deadline" in settings:
            spec["startingDeadlineSeconds"] = int(settings["deadline"])
        if "suspended" in settings or "resumed" in settings:
            spec["suspend"] = "suspended" in settings
        if "keep" in settings:
            successful, failed = settings["keep"].split(",")
            spec |= {"successfulJobsHistoryLimit": int(successful), "failedJobsHistoryLimit": int(failed)}
        CRON_JOB.rules.default(cron_job)
        if known is None:
            self.world.add(cron_job)
        else:
            self.world.replace(cron_job)
        return []

    def do_finish(self, name: str, settings: Settings) -> list[str]:
        """A Job ends, as `failed` or else complete."""
        job = copy.deepcopy(self.world.find("Job", name))
        moment = timestamp(self.world.now)
        kind = "Failed" if "failed" in settings else "Complete"
        condition = {"type": kind, "status": "True", "lastTransitionTime": moment}
        job["status"] = {"startTime": job["metadata"]["creationTimestamp"], "conditions": [condition]}
        if kind == "Complete":
            job["status"]["completionTime"] = moment
        self.world.replace(job)
        return []

    def do_tick(self, name: str, settings: Settings) -> list[str]:
        """The CronJob loop takes a step; a `gone` Job is known to be so."""
        cron_job = self.world.find("CronJob", name)
        jobs = [job for job in self.world.all("Job") if (controller_of(job) or {}).get("uid") == uid_of(cron_job)]
        listed = (cron_job.get("status") or {}).get("active") or ()
        gone = {each["uid"] for each in listed} - {uid_of(job) for job in jobs}
        lines: list[str] = []
        for action in cronjob.decide(cronjob.Observed(cron_job, jobs, self.world.now, frozenset(gone))):
            if isinstance(action, UpdateStatus):
                stored = copy.deepcopy(cron_job)
                stored["status"] = copy.deepcopy(action.obj["status"])
                for job in self.world.all("Job"):
                    if name_of(job) in self.world.started:
                        stored["status"]["active"].append({"uid": uid_of(job), "name": name_of(job)})
                self.world.started.clear()
                self.world.replace(stored)
                active = ", ".join(each["name"] for each in stored["status"]["active"]) or "none"
                lines.append(
                    f"status {name}: active {active}, last {stored['status'].get('lastScheduleTime', 'never')}"
                )
            else:
                lines += self.world.carry_out(action)
            if isinstance(action, Create):
                self.world.started.add(name_of(action.obj))
        wait = cronjob.seconds_to_next(cron_job, self.world.now)
        return [*lines, *([] if wait is None else [f"next in {wait:.0f} s"])]

    def _make(self, pod: Object) -> str:
        """Create the pod under the next number of its prefix, so that stories can name it."""
        prefix = pod["metadata"]["generateName"]
        known = self.world.made_pods.get(prefix, 0) + 1
        self.world.made_pods[prefix] = known
        metadata = {key: value for key, value in pod["metadata"].items() if key != "generateName"}
        return name_of(self.world.add({**pod, "metadata": {**metadata, "name": f"{prefix}{known}"}}))

    def _release(self, pod: Object) -> None:
        free = copy.deepcopy(self.world.find("Pod", name_of(pod)))
        free["metadata"]["finalizers"] = [each for each in free["metadata"]["finalizers"] if each != FINALIZER]
        self.world.replace(free)


def _rule(text: str) -> dict[str, Any]:
    action, _, what = text.partition(":")
    if what.isdecimal():
        return {"action": action, "onExitCodes": {"operator": "In", "values": [int(what)]}}
    return {"action": action, "onPodConditions": [{"type": what, "status": "True"}]}


def _told(status: dict[str, Any]) -> str:
    parts = [f"{field}={status[field]}" for field in ("active", "terminating", "succeeded", "failed") if status[field]]
    noted = status["uncountedTerminatedPods"]
    parts += [f"noted {field}={len(uids)}" for field, uids in noted.items()]
    parts += [f"{field}={status[field]}" for field in ("completedIndexes", "failedIndexes") if status.get(field)]
    parts += [
        f"{each['type']}={each['status']}{'/' if each.get('reason') else ''}{each.get('reason', '')}"
        for each in status.get("conditions") or ()
    ]
    return " ".join(parts) or "nothing"
