"""The Pod Security Standards: what the levels `baseline` and `restricted` forbid of a pod's spec.

Each check is a function from a pod (annotations and spec) to what it finds: the reason and the detail, as Kubernetes
words them. `restricted` holds every check of `baseline`, some of them stricter. Source: the Pod Security Standards page
and `k8s.io/pod-security-admission/policy`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pyk.api.objects import Object, annotations_of
from pyk.api.rules.common import some
from pyk.api.sysctls import SAFE_SYSCTLS

Document = dict[str, Any]
Finding = tuple[str, str]
"""What is forbidden, and where: `privileged`, `container "main" must not set securityContext.privileged=true`."""

LEVELS = ("privileged", "baseline", "restricted")
_BASELINE_CAPABILITIES = {
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
}
_SELINUX_TYPES = ("", "container_engine_t", "container_init_t", "container_kvm_t", "container_t")
_RESTRICTED_VOLUMES = (
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
)
_SECCOMP = ("RuntimeDefault", "Localhost")
_APPARMOR_ANNOTATION = "container.apparmor.security.beta.kubernetes.io/"


def _containers(spec: Document) -> Iterator[Document]:
    for field in ("initContainers", "containers", "ephemeralContainers"):
        yield from some(spec, field)


def _context(container: Document) -> Document:
    return container.get("securityContext") or {}


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _which(names: list[str], one: str = "container", many: str = "containers") -> str:
    """`container "a"`, `containers "a", "b"`."""
    return f"{one if len(names) == 1 else many} {_quoted(names)}"


def _offenders(spec: Document, is_bad: Callable[[Document], bool]) -> list[str]:
    return [container["name"] for container in _containers(spec) if is_bad(_context(container))]


def _is_windows(spec: Document) -> bool:
    return (spec.get("os") or {}).get("name") == "windows"


def host_namespaces(pod: Object) -> Finding | None:
    fields = [f"{field}=true" for field in ("hostNetwork", "hostPID", "hostIPC") if pod["spec"].get(field)]
    return ("host namespaces", ", ".join(fields)) if fields else None


def host_process(pod: Object) -> Finding | None:
    spec = pod["spec"]
    names = _offenders(spec, lambda context: bool((context.get("windowsOptions") or {}).get("hostProcess")))
    setters = [_which(names)] if names else []
    if ((spec.get("securityContext") or {}).get("windowsOptions") or {}).get("hostProcess"):
        setters.insert(0, "pod")
    if not setters:
        return None
    return "hostProcess", f"{' and '.join(setters)} must not set securityContext.windowsOptions.hostProcess=true"


def privileged(pod: Object) -> Finding | None:
    names = _offenders(pod["spec"], lambda context: bool(context.get("privileged")))
    return ("privileged", f"{_which(names)} must not set securityContext.privileged=true") if names else None


def baseline_capabilities(pod: Object) -> Finding | None:
    names, added = [], set()
    for container in _containers(pod["spec"]):
        extra = set((_context(container).get("capabilities") or {}).get("add") or ()) - _BASELINE_CAPABILITIES
        if extra:
            names.append(container["name"])
            added |= extra
    if not names:
        return None
    which = f"{_which(names)} must not include {_quoted(sorted(added))}"
    return "non-default capabilities", f"{which} in securityContext.capabilities.add"


def host_path_volumes(pod: Object) -> Finding | None:
    names = [volume["name"] for volume in some(pod["spec"], "volumes") if volume.get("hostPath") is not None]
    return ("hostPath volumes", _which(names, "volume", "volumes")) if names else None


def host_ports(pod: Object) -> Finding | None:
    names, ports = [], set()
    for container in _containers(pod["spec"]):
        used = {port["hostPort"] for port in some(container, "ports") if port.get("hostPort")}
        if used:
            names.append(container["name"])
            ports |= used
    if not names:
        return None
    word = "hostPort" if len(ports) == 1 else "hostPorts"
    verb = "uses" if len(names) == 1 else "use"
    return "hostPort", f"{_which(names)} {verb} {word} {', '.join(map(str, sorted(ports)))}"


def host_probes(pod: Object) -> Finding | None:
    """Probes and handlers reach no other host than the pod."""
    names, hosts = [], set()
    for container in _containers(pod["spec"]):
        handlers = [container.get(probe) for probe in ("livenessProbe", "readinessProbe", "startupProbe")]
        handlers += list((container.get("lifecycle") or {}).values())
        found = {
            str((handler.get(kind) or {}).get("host") or "")
            for handler in handlers
            if isinstance(handler, dict)
            for kind in ("httpGet", "tcpSocket")
        } - {""}
        if found:
            names.append(container["name"])
            hosts |= found
    if not names:
        return None
    verb = "uses" if len(names) == 1 else "use"
    word = "host" if len(hosts) == 1 else "hosts"
    return "probe or lifecycle host", f"{_which(names)} {verb} probe or lifecycle {word} {_quoted(sorted(hosts))}"


def app_armor(pod: Object) -> Finding | None:
    spec = pod["spec"]
    bad = {
        f'{key}="{value}"'
        for key, value in annotations_of(pod).items()
        if key.startswith(_APPARMOR_ANNOTATION)
        and value not in ("", "runtime/default")
        and not value.startswith("localhost/")
    }
    names = _offenders(spec, lambda context: (context.get("appArmorProfile") or {}).get("type") == "Unconfined")
    is_pod = ((spec.get("securityContext") or {}).get("appArmorProfile") or {}).get("type") == "Unconfined"
    setters = (["pod"] if is_pod else []) + ([_which(names)] if names else [])
    details = []
    if setters:
        details.append(f'{" and ".join(setters)} must not set AppArmor profile type to "Unconfined"')
    if bad:
        word = "annotation" if len(bad) == 1 else "annotations"
        details.append(f"{word} {', '.join(sorted(bad))}")
    if not details:
        return None
    return "forbidden AppArmor profile" + ("s" if len(bad) + len(names) + is_pod > 1 else ""), ", ".join(details)


def selinux(pod: Object) -> Finding | None:
    types, users, roles, setters = set(), set(), set(), []
    bad_containers = []
    for container in (None, *_containers(pod["spec"])):
        context = _context(container) if container is not None else pod["spec"].get("securityContext") or {}
        options = context.get("seLinuxOptions") or {}
        kind, user, role = (options.get(field) or "" for field in ("type", "user", "role"))
        types |= {kind} - set(_SELINUX_TYPES)
        users |= {user} - {""}
        roles |= {role} - {""}
        if kind not in _SELINUX_TYPES or user or role:
            if container is None:
                setters.append("pod")
            else:
                bad_containers.append(container["name"])
    if bad_containers:
        setters.append(_which(bad_containers))
    if not setters:
        return None
    parts = []
    if types:
        parts.append(f"type{'s' if len(types) > 1 else ''} {_quoted(sorted(types))}")
    if users:
        parts.append("user may not be set")
    if roles:
        parts.append("role may not be set")
    return "seLinuxOptions", f"{' and '.join(setters)} set forbidden securityContext.seLinuxOptions: {'; '.join(parts)}"


def proc_mount(pod: Object) -> Finding | None:
    names, values = [], set()
    if pod["spec"].get("hostUsers") is False:
        return None  # a user namespace makes an unmasked /proc harmless
    for container in _containers(pod["spec"]):
        value = _context(container).get("procMount")
        if value not in (None, "Default"):
            names.append(container["name"])
            values.add(value)
    if not names:
        return None
    return "procMount", f"{_which(names)} must not set securityContext.procMount to {_quoted(sorted(values))}"


def baseline_seccomp(pod: Object) -> Finding | None:
    spec = pod["spec"]
    names = _offenders(spec, lambda context: (context.get("seccompProfile") or {}).get("type") == "Unconfined")
    setters = [_which(names)] if names else []
    if ((spec.get("securityContext") or {}).get("seccompProfile") or {}).get("type") == "Unconfined":
        setters.insert(0, "pod")
    if not setters:
        return None
    return "seccompProfile", f'{" and ".join(setters)} must not set securityContext.seccompProfile.type to "Unconfined"'


def sysctls(pod: Object) -> Finding | None:
    names = [
        sysctl["name"]
        for sysctl in some(pod["spec"].get("securityContext"), "sysctls")
        if sysctl["name"] not in SAFE_SYSCTLS
    ]
    return ("forbidden sysctls", ", ".join(names)) if names else None


def restricted_volumes(pod: Object) -> Finding | None:
    names, kinds = [], set()
    for volume in some(pod["spec"], "volumes"):
        bad = [field for field in volume if field != "name" and field not in _RESTRICTED_VOLUMES]
        if bad:
            names.append(volume["name"])
            kinds |= set(bad)
    if not names:
        return None
    word = "type" if len(kinds) == 1 else "types"
    verb = "uses" if len(names) == 1 else "use"
    which = _which(names, "volume", "volumes")
    return "restricted volume types", f"{which} {verb} restricted volume {word} {_quoted(sorted(kinds))}"


def privilege_escalation(pod: Object) -> Finding | None:
    if _is_windows(pod["spec"]):
        return None
    names = _offenders(pod["spec"], lambda context: context.get("allowPrivilegeEscalation") is not False)
    if not names:
        return None
    detail = f"{_which(names)} must set securityContext.allowPrivilegeEscalation=false"
    return "allowPrivilegeEscalation != false", detail


def run_as_non_root(pod: Object) -> Finding | None:
    spec = pod["spec"]
    of_pod = (spec.get("securityContext") or {}).get("runAsNonRoot")
    if spec.get("hostUsers") is False and not _is_windows(spec):
        return None
    explicit = _offenders(spec, lambda context: context.get("runAsNonRoot") is False)
    missing = _offenders(spec, lambda context: context.get("runAsNonRoot") is None)
    setters = (["pod"] if of_pod is False else []) + ([_which(explicit)] if explicit else [])
    if setters:
        return "runAsNonRoot != true", f"{' and '.join(setters)} must not set securityContext.runAsNonRoot=false"
    if of_pod or not missing:
        return None
    where = f"pod or {_which(missing)}"
    return "runAsNonRoot != true", f"{where} must set securityContext.runAsNonRoot=true"


def run_as_user(pod: Object) -> Finding | None:
    spec = pod["spec"]
    if spec.get("hostUsers") is False and not _is_windows(spec):
        return None
    names = _offenders(spec, lambda context: context.get("runAsUser") == 0)
    setters = [_which(names)] if names else []
    if (spec.get("securityContext") or {}).get("runAsUser") == 0:
        setters.insert(0, "pod")
    return ("runAsUser=0", f"{' and '.join(setters)} must not set runAsUser=0") if setters else None


def restricted_seccomp(pod: Object) -> Finding | None:
    spec = pod["spec"]
    if _is_windows(spec):
        return None

    def kind(context: Document) -> str | None:
        found: str | None = (context.get("seccompProfile") or {}).get("type")
        return found

    of_pod = kind(spec.get("securityContext") or {})
    explicit = [c for c in _containers(spec) if kind(_context(c)) not in (None, *_SECCOMP)]
    setters = (["pod"] if of_pod not in (None, *_SECCOMP) else []) + (
        [_which([container["name"] for container in explicit])] if explicit else []
    )
    if setters:
        values = {of_pod, *(kind(_context(container)) for container in explicit)} - {None, *_SECCOMP}
        text = _quoted(sorted(str(value) for value in values))
        return "seccompProfile", f"{' and '.join(setters)} must not set securityContext.seccompProfile.type to {text}"
    missing = _offenders(spec, lambda context: kind(context) is None)
    if of_pod or not missing:
        return None
    where = f"pod or {_which(missing)}"
    return "seccompProfile", f'{where} must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost"'


def restricted_capabilities(pod: Object) -> Finding | None:
    if _is_windows(pod["spec"]):
        return None
    undropped, adding, added = [], [], set()
    for container in _containers(pod["spec"]):
        capabilities = _context(container).get("capabilities") or {}
        if "ALL" not in (capabilities.get("drop") or ()):
            undropped.append(container["name"])
        extra = set(capabilities.get("add") or ()) - {"NET_BIND_SERVICE"}
        if extra:
            adding.append(container["name"])
            added |= extra
    details = []
    if undropped:
        details.append(f'{_which(undropped)} must set securityContext.capabilities.drop=["ALL"]')
    if adding:
        details.append(
            f"{_which(adding)} must not include {_quoted(sorted(added))} in securityContext.capabilities.add"
        )
    return ("unrestricted capabilities", "; ".join(details)) if details else None


Check = Callable[[Object], Finding | None]
# In the order of the checks' names in Kubernetes, by which it lists what it finds.
_BASELINE: tuple[Check, ...] = (
    app_armor,
    baseline_capabilities,
    host_namespaces,
    host_path_volumes,
    host_ports,
    host_probes,
    privileged,
    proc_mount,
    baseline_seccomp,
    selinux,
    sysctls,
    host_process,
)
_RESTRICTED: tuple[Check, ...] = (
    app_armor,
    host_namespaces,
    host_ports,
    host_probes,
    privileged,
    proc_mount,
    selinux,
    sysctls,
    host_process,
    privilege_escalation,
    restricted_capabilities,
    restricted_volumes,
    run_as_non_root,
    run_as_user,
    restricted_seccomp,
)


def findings(level: str, pod: Object) -> list[Finding]:
    """What a level forbids of a pod; nothing when it is allowed."""
    checks = {"baseline": _BASELINE, "restricted": _RESTRICTED}.get(level, ())
    return [found for check in checks if (found := check(pod)) is not None]


def told(found: Iterable[Finding]) -> str:
    """`privileged (container "main" must not ...), hostPort (...)`."""
    return ", ".join(f"{reason} ({detail})" if detail else reason for reason, detail in found)
