"""From a pod's container to the runtime's `ContainerConfig`: environment, user, mounts, files, document.

The files that the node manages for a pod are below its directory: `etc-hosts`, `hostname`, `resolv.conf`,
`message-<name>-<attempt>` (the termination message) and `rootfs/<id>` (the writable layer, which the runtime makes).
Few files and plain system calls: each new inode and each look at one is a good part of what a start costs.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agent.images.image import Image
from agent.pods.downward import Facts
from agent.pods.envfile import read_in_volume
from agent.pods.environment import ConfigError, Lookup, container_environment, expand, missing
from agent.pods.files import hostname, hosts_file, kernel_hostname, resolv_conf
from agent.pods.observed import (
    ASKED_IMAGE,
    ATTEMPT,
    BACKOFF,
    CONTAINER_NAME,
    GRACE,
    IMAGE,
    IMAGE_ID,
    MESSAGE_POLICY,
    POD_NAME,
    POD_NAMESPACE,
    POD_UID,
    PRE_STOP,
    RESOURCES,
    RUN,
    STOP_SIGNAL,
    USER,
    container_id,
)
from agent.pods.record import PodRecord
from agent.pods.resources import pod_cgroup
from agent.pods.settings import PodSettings
from agent.pods.spec import DEFAULT_MESSAGE_PATH, ContainerInputs, MountPoint, container_spec
from agent.pods.users import User, resolve_user, security_value
from agent.runtime.contract import ContainerConfig, Phase, RootFilesystem, RuntimeFailure
from agent.volumes.manager import VolumeManager
from agent.volumes.projection import VolumeFailure
from pyk.api.objects import Object, name_of, namespace_of, uid_of

_ALWAYS_READ_ONLY = ("configMap", "secret", "downwardAPI", "projected", "image")
_MANAGED = {"etc-hosts": "/etc/hosts", "hostname": "/etc/hostname", "resolv.conf": "/etc/resolv.conf"}


def log_directory(settings: PodSettings, pod: Object) -> Path:
    """Where the logs of a pod's containers are: `<ns>_<pod>_<uid>`."""
    return settings.log_root / f"{namespace_of(pod)}_{name_of(pod)}_{uid_of(pod)}"


def message_file(pod_directory: Path, name: str, attempt: int) -> Path:
    """The host side of an attempt's termination message file."""
    return pod_directory / f"message-{name}-{attempt}"


def pod_labels(pod: Object) -> dict[str, str]:
    """The labels that sandbox and containers of a pod carry in the runtime."""
    return {POD_UID: uid_of(pod), POD_NAME: name_of(pod), POD_NAMESPACE: namespace_of(pod)}


class Launcher:
    """Makes container configurations on this node."""

    def __init__(
        self,
        volumes: VolumeManager,
        settings: PodSettings,
        links: Callable[[Object], Mapping[str, str]],
        cpus_of: Callable[[str, str], str],
    ) -> None:
        self._cpus_of = cpus_of
        self._volumes = volumes
        self._settings = settings
        self._links = links

    async def config(
        self,
        record: PodRecord,
        container: Mapping[str, Any],
        attempt: int,
        backoff: float,
        run: int,
        lookup: Lookup,
        facts: Facts,
        memory_capacity: int,
    ) -> tuple[ContainerConfig, list[str]]:
        """The configuration of one attempt, and the keys of `envFrom` that were left out.

        Its files are made. Raises `ConfigError`, `RuntimeFailure`, `VolumeFailure` or `OSError`.
        """
        pod, sandbox = record.pod, record.sandbox
        assert sandbox is not None
        name = str(container["name"])
        image = record.images[name]
        identifier = container_id(record.uid, name, attempt)

        def read_file(volume: str, path: str) -> str | None:
            found = (record.volumes or {}).get(volume)
            return None if found is None else read_in_volume(found, path)

        environment, skipped = container_environment(pod, container, lookup, facts, read_file, self._links(pod))
        if sandbox.first_host_id:
            users = f"/proc/{sandbox.pid}/ns/user"
            await self._volumes.give_to_users(record.uid, sandbox.first_host_id, users, record.layers)
        mounts = await self._mounts(record, container, attempt, environment, facts)
        inputs = ContainerInputs(
            image=image,
            environment=environment,
            user=resolve_user(pod, container, image),
            sandbox=sandbox,
            target_pid=_target_pid(record, container),
            mounts=mounts,
            cgroup=f"{pod_cgroup(self._settings.cgroup_root, pod)}/{identifier}",
            hostname=self.hostname(pod),
            memory_capacity=memory_capacity,
            localhost_seccomp=self._localhost_profile(pod, container),
            default_apparmor=self._settings.default_apparmor,
            cpus=self._cpus_of(record.uid, name),
        )
        directory = self._volumes.pod_directory(record.uid)
        writable = directory / "rootfs" / identifier
        log = log_directory(self._settings, pod) / name / f"{attempt}.log"
        return (
            ContainerConfig(
                id=identifier,
                sandbox_id=sandbox.id,
                spec=container_spec(pod, container, inputs),
                rootfs=RootFilesystem(image.layers, writable, image.read_only_binds),
                log_path=log,
                log_max_bytes=self._settings.container_log_max_bytes,
                log_max_files=self._settings.container_log_max_files,
                stdin=bool(container.get("stdin")),
                stdin_once=bool(container.get("stdinOnce")),
                labels=_labels(pod, container, image, inputs.user) | _tries(attempt, backoff, run),
                handler=sandbox.handler,
            ),
            skipped,
        )

    def hostname(self, pod: Object) -> str:
        return kernel_hostname(pod, self._settings.cluster_domain, self._settings.node_name)

    async def _mounts(
        self,
        record: PodRecord,
        container: Mapping[str, Any],
        attempt: int,
        environment: Mapping[str, str],
        facts: Facts,
    ) -> list[MountPoint]:
        taken = {mount["mountPath"].rstrip("/") for mount in container.get("volumeMounts") or ()}
        managed = self._managed_files(record.pod, container, attempt, facts)
        points = [point for point in managed if point.destination not in taken]
        kinds = {volume["name"]: volume for volume in record.pod["spec"].get("volumes") or ()}
        for index, mount in enumerate(container.get("volumeMounts") or ()):
            volume = (record.volumes or {}).get(mount["name"])
            if volume is None:
                raise ConfigError(f'volume "{mount["name"]}" of container {container["name"]} is not there')
            subpath = subpath_of(mount, environment)
            if subpath:
                try:
                    volume = await self._volumes.bind_subpath(record.uid, container["name"], index, volume, subpath)
                except VolumeFailure as error:
                    where = f'volumeMount "{mount["name"]}" of container "{container["name"]}"'
                    text = f"failed to prepare subPath for {where}: {error}"
                    if kinds[mount["name"]].get("image") is not None:  # whose paths runtimes look up
                        raise RuntimeFailure(text) from error
                    raise ConfigError(text) from error
            destination = mount["mountPath"]
            points.append(
                MountPoint(
                    source=str(volume),
                    destination=destination if destination.startswith("/") else f"/{destination}",
                    read_only=bool(mount.get("readOnly"))
                    or any(kind in kinds[mount["name"]] for kind in _ALWAYS_READ_ONLY)
                    or bool((kinds[mount["name"]].get("persistentVolumeClaim") or {}).get("readOnly")),
                    recursive_read_only=mount.get("recursiveReadOnly") in ("Enabled", "IfPossible"),
                    propagation=mount.get("mountPropagation") or "None",
                )
            )
        return points

    def _managed_files(self, pod: Object, container: Mapping[str, Any], attempt: int, facts: Facts) -> list[MountPoint]:
        """Write the files that every container has, and the mounts that show them."""
        directory = self._volumes.pod_directory(uid_of(pod))
        contents: dict[str, Callable[[], str]] = {
            "etc-hosts": lambda: self._hosts(pod, facts),
            "hostname": lambda: (self.hostname(pod) if pod["spec"].get("hostNetwork") else hostname(pod)) + "\n",
            "resolv.conf": lambda: self._resolv_conf(pod),
        }
        read_only = bool((container.get("securityContext") or {}).get("readOnlyRootFilesystem"))
        points = []
        for file, destination in _MANAGED.items():
            path = f"{directory}/{file}"
            # A container may have changed it: it is the pod's as long as the pod lives.
            _make_file(path, 0o644, contents[file])
            points.append(MountPoint(path, destination, read_only=read_only))
        message = str(message_file(directory, container["name"], attempt))
        _make_file(message, 0o666, lambda: "")
        return [*points, MountPoint(message, container.get("terminationMessagePath") or DEFAULT_MESSAGE_PATH)]

    def _hosts(self, pod: Object, facts: Facts) -> str:
        node_hosts = _read(Path("/etc/hosts")) if pod["spec"].get("hostNetwork") else ""
        return hosts_file(pod, facts.pod_addresses, self._settings.cluster_domain, node_hosts)

    def _resolv_conf(self, pod: Object) -> str:
        settings = self._settings
        return resolv_conf(pod, _read(settings.resolv_conf), settings.cluster_dns, settings.cluster_domain)

    def _localhost_profile(self, pod: Object, container: Mapping[str, Any]) -> dict[str, Any] | None:
        """The content of a Localhost seccomp profile, from `<state-dir>/seccomp/`."""
        profile = security_value(pod, container, "seccompProfile") or {}
        if profile.get("type") != "Localhost":
            return None
        root = self._settings.state_dir / "seccomp"
        path = root / profile.get("localhostProfile", "")
        try:
            if not path.resolve().is_relative_to(root.resolve()):
                raise ConfigError(f"seccomp profile {path} is not below {root}")
            document: dict[str, Any] = json.loads(path.read_bytes())
        except OSError as error:
            raise RuntimeFailure(f"cannot load seccomp profile {path}: {error.strerror}") from error
        except ValueError as error:
            raise RuntimeFailure(f"cannot load seccomp profile {path}: {error}") from error
        return document


def _make_file(path: str, mode: int, content: Callable[[], str]) -> None:
    """A file of this mode and content, whole or not at all; one that is there stays as it is."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError:
        return
    try:
        os.fchmod(fd, mode)  # whatever this process' umask
        if (data := content().encode()) and os.write(fd, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
    except OSError:
        os.unlink(path)
        raise
    finally:
        os.close(fd)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def subpath_of(mount: Mapping[str, Any], environment: Mapping[str, str]) -> str:
    """`subPath`, or `subPathExpr` with its variables. Raises `ConfigError`."""
    expression = mount.get("subPathExpr")
    if not expression:
        return str(mount.get("subPath") or "")
    if names := missing(expression, environment):
        raise ConfigError(f"missing value for {', '.join(names)}")
    text = expand(expression, environment)
    if text.startswith("/"):
        raise ConfigError(f"error SubPath `{text}` must not be an absolute path")
    if ".." in text.split("/"):
        raise ConfigError(f"unable to provision SubPath `{text}`: must not contain '..'")
    return text


def _target_pid(record: PodRecord, container: Mapping[str, Any]) -> int:
    """The first process of the container that one for debugging looks at, 0 for none. Raises `ConfigError`."""
    name = container.get("targetContainerName")
    if not name:
        return 0
    attempts = record.attempts(name)
    if not attempts or attempts[-1].phase is not Phase.RUNNING:
        raise ConfigError(f"unable to find target container {name}")
    return attempts[-1].pid


def _tries(attempt: int, backoff: float, run: int) -> dict[str, str]:
    return {ATTEMPT: str(attempt), BACKOFF: f"{backoff:g}", RUN: str(run)}


def _labels(pod: Object, container: Mapping[str, Any], image: Image, user: User) -> dict[str, str]:
    lifecycle = container.get("lifecycle") or {}
    grace = pod["spec"].get("terminationGracePeriodSeconds")
    resources = container.get("resources")
    return pod_labels(pod) | {
        CONTAINER_NAME: str(container["name"]),
        IMAGE: image.name,
        IMAGE_ID: image.image_id,
        ASKED_IMAGE: str(container.get("image") or ""),
        GRACE: str(30 if grace is None else grace),
        PRE_STOP: json.dumps(lifecycle["preStop"], separators=(",", ":")) if lifecycle.get("preStop") else "",
        STOP_SIGNAL: str(lifecycle.get("stopSignal") or image.config.stop_signal or "SIGTERM"),
        RESOURCES: json.dumps(resources, separators=(",", ":")) if resources else "",
        USER: f"{user.uid}:{user.gid}:{','.join(map(str, user.groups))}",
        MESSAGE_POLICY: str(container.get("terminationMessagePolicy") or "File"),
    }
