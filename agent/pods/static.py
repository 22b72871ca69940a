"""Static pods: pods of this node that are files in a folder, run whether there is an API server or not.

`static_pod` is pure: from a file's content to the pod that the node runs. `StaticPods` follows the folder; a file that
is no pod is told of in the log and runs nothing. Where a pod comes from is in its annotations, as the kubelet has it
(`pkg/kubelet/config`); a mirror pod stands for it in the API (`mirrors.py`).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent import inotify
from pyk.api.objects import Object, annotations_of
from pyk.reconcile.clock import Clock, timestamp

log = logging.getLogger(__name__)

MIRROR = "kubernetes.io/config.mirror"
HASH, SEEN, SOURCE = "kubernetes.io/config.hash", "kubernetes.io/config.seen", "kubernetes.io/config.source"
_ENDINGS = (".yaml", ".yml", ".json")
_KINDS = inotify.CLOSE_WRITE | inotify.MOVED_FROM | inotify.MOVED_TO | inotify.DELETE
_FOR_LONG = 3600.0
_LARGEST_FILE = 10 << 20


class BadManifest(Exception):
    """A file in the folder is no pod that this node could run; the text is for people."""


def own_uid(pod: Object) -> str:
    """The UID by which the node knows a pod of the API: that of the static pod, where it stands for one."""
    return annotations_of(pod).get(MIRROR) or str(pod["metadata"].get("uid") or "")


def is_static(pod: Object) -> bool:
    """Whether it is a static pod itself; the pod that stands for it in the API is none."""
    return SOURCE in annotations_of(pod) and MIRROR not in annotations_of(pod)


def static_pod(content: bytes, origin: str, node_name: str, now: float) -> Object:
    """The pod of a manifest from the file `origin`. Raises `BadManifest`."""
    import yaml

    from pyk.api.kinds import POD

    try:
        document = yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise BadManifest(f"is neither YAML nor JSON: {error}") from None
    if not isinstance(document, dict) or (document.get("apiVersion"), document.get("kind")) != ("v1", "Pod"):
        raise BadManifest("is no Pod of v1")
    pod: Object = _conform(POD.model, document)
    metadata, spec = pod["metadata"], pod["spec"]
    uid = hashlib.md5(b"\0".join((node_name.encode(), origin.encode(), content)), usedforsecurity=False).hexdigest()
    name = f"{metadata['name']}-{node_name.lower()}"
    metadata |= {"name": name, "namespace": metadata.get("namespace") or "default", "uid": uid}
    own = {HASH: uid, SEEN: timestamp(now), SOURCE: "file"}
    metadata["annotations"] = (metadata.get("annotations") or {}) | own
    spec["nodeName"] = node_name
    spec["tolerations"] = [*(spec.get("tolerations") or ()), {"operator": "Exists", "effect": "NoExecute"}]
    POD.rules.default(pod)
    problems = [f"{error.field}: {error.message}" for error in POD.rules.validate(pod, None)]
    problems += _references(spec)
    if problems:
        raise BadManifest("; ".join(problems))
    pod["status"] = {"phase": "Pending"}
    return pod


def _conform(model: Any, document: dict[str, Any]) -> Object:
    from pydantic import ValidationError

    try:
        checked = model.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadManifest(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    pod: Object = checked.model_dump(exclude_none=True)
    pod |= {"apiVersion": "v1", "kind": "Pod"}
    if not (pod.get("metadata") or {}).get("name") or not pod.get("spec"):
        raise BadManifest("has no name or no spec")
    return pod


def _references(spec: dict[str, Any]) -> list[str]:
    """What a static pod must not refer to, because it has to run without the API."""
    found = []
    if spec.get("serviceAccountName"):
        found.append("static pods may not reference serviceaccounts")
    for volume in spec.get("volumes") or ():
        for field in ("secret", "configMap", "persistentVolumeClaim", "projected"):
            if volume.get(field):
                found.append(f"static pods may not reference volumes of type {field}")
    for container in [*(spec.get("initContainers") or ()), *spec["containers"]]:
        sources = [*(container.get("envFrom") or ())]
        sources += [each.get("valueFrom") or {} for each in container.get("env") or ()]
        if any(key.startswith(("configMap", "secret")) for source in sources for key in source):
            found.append("static pods may not take environment variables from configmaps or secrets")
    return found


class StaticPods:
    """The static pods of a node, by UID, as the files in `directory` are. `run` follows the folder."""

    def __init__(self, directory: Path, node_name: str, clock: Clock, changed: Callable[[str], None]) -> None:
        self.pods: dict[str, Object] = {}
        self.ending: dict[str, Object] = {}
        """Pods whose file is gone, until their containers are."""
        self._directory = directory
        self._node_name = node_name
        self._clock = clock
        self._changed = changed
        self._is_loaded = asyncio.Event()

    def get(self, uid: str) -> Object | None:
        """The pod, also while it ends."""
        return self.pods.get(uid) or self.ending.get(uid)

    async def wait_loaded(self) -> None:
        """Return when the folder has been read."""
        await self._is_loaded.wait()

    def release(self, uid: str) -> None:
        """Nothing is left of a pod that has ended."""
        if self.ending.pop(uid, None) is not None:
            self._changed(uid)

    async def run(self) -> None:
        """Follow the folder, made if need be, until cancelled. Raises OSError when it cannot be watched."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with inotify.Watch() as watch:
            watch.add(self._directory, _KINDS)
            while True:
                self._take(await asyncio.to_thread(self._read))
                self._is_loaded.set()
                while not await watch.wait(_FOR_LONG):
                    pass

    def _read(self) -> dict[str, bytes]:
        """The files that may hold pods, by path."""
        found = {}
        for path in sorted(self._directory.iterdir()):
            if path.suffix in _ENDINGS and not path.name.startswith(".") and path.is_file():
                with path.open("rb") as file:
                    found[str(path)] = file.read(_LARGEST_FILE)
        return found

    def _take(self, files: dict[str, bytes]) -> None:
        """Make the pods those of the files: what is new begins, what has changed or gone ends."""
        wanted: dict[str, Object] = {}
        for origin, content in files.items():
            try:
                pod = static_pod(content, origin, self._node_name, self._clock.time())
            except BadManifest as error:
                log.error("static pod %s: %s", origin, error)
                continue
            wanted[pod["metadata"]["uid"]] = pod
        for uid in self.pods.keys() - wanted.keys():
            pod = self.pods.pop(uid)
            grace = pod["spec"]["terminationGracePeriodSeconds"]
            end = {"deletionTimestamp": timestamp(self._clock.time() + grace), "deletionGracePeriodSeconds": grace}
            self.ending[uid] = {**pod, "metadata": {**pod["metadata"], **end}}
            self._changed(uid)
        for uid in wanted.keys() - self.pods.keys():
            self.pods[uid] = wanted[uid]
            self.ending.pop(uid, None)
            self._changed(uid)
