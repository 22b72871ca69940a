"""Containers of a pod: image, command, environment, probes, resources, security context (core/v1)."""

from __future__ import annotations

from typing import Annotated

from pyk.api.base import Int32, Int64, IntOrString, MergeKey, Model, Quantity
from pyk.api.core_volumes import ObjectFieldSelector, ResourceFieldSelector


class ConfigMapKeySelector(Model):
    key: str
    name: str | None = None
    optional: bool | None = None


class FileKeySelector(Model):
    key: str
    path: str
    volumeName: str
    optional: bool | None = None


class SecretKeySelector(Model):
    key: str
    name: str | None = None
    optional: bool | None = None


class EnvVarSource(Model):
    configMapKeyRef: ConfigMapKeySelector | None = None
    fieldRef: ObjectFieldSelector | None = None
    fileKeyRef: FileKeySelector | None = None
    resourceFieldRef: ResourceFieldSelector | None = None
    secretKeyRef: SecretKeySelector | None = None


class EnvVar(Model):
    name: str
    value: str | None = None
    valueFrom: EnvVarSource | None = None


class ConfigMapEnvSource(Model):
    name: str | None = None
    optional: bool | None = None


class SecretEnvSource(Model):
    name: str | None = None
    optional: bool | None = None


class EnvFromSource(Model):
    configMapRef: ConfigMapEnvSource | None = None
    prefix: str | None = None
    secretRef: SecretEnvSource | None = None


class ExecAction(Model):
    command: list[str] | None = None


class HTTPHeader(Model):
    name: str
    value: str


class HTTPGetAction(Model):
    port: IntOrString
    host: str | None = None
    httpHeaders: list[HTTPHeader] | None = None
    path: str | None = None
    protocol: str | None = None
    scheme: str | None = None


class SleepAction(Model):
    seconds: Int64


class TCPSocketAction(Model):
    port: IntOrString
    host: str | None = None


class LifecycleHandler(Model):
    exec: ExecAction | None = None
    httpGet: HTTPGetAction | None = None
    sleep: SleepAction | None = None
    tcpSocket: TCPSocketAction | None = None


class Lifecycle(Model):
    postStart: LifecycleHandler | None = None
    preStop: LifecycleHandler | None = None
    stopSignal: str | None = None


class GRPCAction(Model):
    port: Int32
    mode: str | None = None
    service: str | None = None


class Probe(Model):
    exec: ExecAction | None = None
    failureThreshold: Int32 | None = None
    grpc: GRPCAction | None = None
    httpGet: HTTPGetAction | None = None
    initialDelaySeconds: Int32 | None = None
    periodSeconds: Int32 | None = None
    successThreshold: Int32 | None = None
    tcpSocket: TCPSocketAction | None = None
    terminationGracePeriodSeconds: Int64 | None = None
    timeoutSeconds: Int32 | None = None


class ContainerPort(Model):
    containerPort: Int32
    hostIP: str | None = None
    hostPort: Int32 | None = None
    name: str | None = None
    protocol: str | None = None


class ContainerResizePolicy(Model):
    resourceName: str
    restartPolicy: str


class ResourceClaim(Model):
    name: str
    request: str | None = None


class ResourceRequirements(Model):
    claims: list[ResourceClaim] | None = None
    limits: dict[str, Quantity] | None = None
    requests: dict[str, Quantity] | None = None


class ContainerRestartRuleOnExitCodes(Model):
    operator: str
    values: list[Int32] | None = None


class ContainerRestartRule(Model):
    action: str
    exitCodes: ContainerRestartRuleOnExitCodes | None = None


class AppArmorProfile(Model):
    type: str
    localhostProfile: str | None = None


class Capabilities(Model):
    add: list[str] | None = None
    drop: list[str] | None = None


class SELinuxOptions(Model):
    level: str | None = None
    role: str | None = None
    type: str | None = None
    user: str | None = None


class SeccompProfile(Model):
    type: str
    localhostProfile: str | None = None


class WindowsSecurityContextOptions(Model):
    gmsaCredentialSpec: str | None = None
    gmsaCredentialSpecName: str | None = None
    hostProcess: bool | None = None
    runAsUserName: str | None = None


class SecurityContext(Model):
    allowPrivilegeEscalation: bool | None = None
    appArmorProfile: AppArmorProfile | None = None
    capabilities: Capabilities | None = None
    privileged: bool | None = None
    procMount: str | None = None
    readOnlyRootFilesystem: bool | None = None
    runAsGroup: Int64 | None = None
    runAsNonRoot: bool | None = None
    runAsUser: Int64 | None = None
    seLinuxOptions: SELinuxOptions | None = None
    seccompProfile: SeccompProfile | None = None
    windowsOptions: WindowsSecurityContextOptions | None = None


class VolumeDevice(Model):
    devicePath: str
    name: str


class VolumeMount(Model):
    mountPath: str
    name: str
    bindMountOptions: list[str] | None = None
    mountPropagation: str | None = None
    readOnly: bool | None = None
    recursiveReadOnly: str | None = None
    subPath: str | None = None
    subPathExpr: str | None = None


class Container(Model):
    name: str
    args: list[str] | None = None
    command: list[str] | None = None
    env: Annotated[list[EnvVar], MergeKey("name")] | None = None
    envFrom: list[EnvFromSource] | None = None
    image: str | None = None
    imagePullPolicy: str | None = None
    lifecycle: Lifecycle | None = None
    livenessProbe: Probe | None = None
    ports: Annotated[list[ContainerPort], MergeKey("containerPort", keys=("containerPort", "protocol"))] | None = None
    readinessProbe: Probe | None = None
    resizePolicy: list[ContainerResizePolicy] | None = None
    resources: ResourceRequirements | None = None
    restartPolicy: str | None = None
    restartPolicyRules: list[ContainerRestartRule] | None = None
    securityContext: SecurityContext | None = None
    startupProbe: Probe | None = None
    stdin: bool | None = None
    stdinOnce: bool | None = None
    terminationMessagePath: str | None = None
    terminationMessagePolicy: str | None = None
    tty: bool | None = None
    volumeDevices: Annotated[list[VolumeDevice], MergeKey("devicePath")] | None = None
    volumeMounts: Annotated[list[VolumeMount], MergeKey("mountPath")] | None = None
    workingDir: str | None = None


class EphemeralContainer(Model):
    name: str
    args: list[str] | None = None
    command: list[str] | None = None
    env: Annotated[list[EnvVar], MergeKey("name")] | None = None
    envFrom: list[EnvFromSource] | None = None
    image: str | None = None
    imagePullPolicy: str | None = None
    lifecycle: Lifecycle | None = None
    livenessProbe: Probe | None = None
    ports: Annotated[list[ContainerPort], MergeKey("containerPort", keys=("containerPort", "protocol"))] | None = None
    readinessProbe: Probe | None = None
    resizePolicy: list[ContainerResizePolicy] | None = None
    resources: ResourceRequirements | None = None
    restartPolicy: str | None = None
    restartPolicyRules: list[ContainerRestartRule] | None = None
    securityContext: SecurityContext | None = None
    startupProbe: Probe | None = None
    stdin: bool | None = None
    stdinOnce: bool | None = None
    targetContainerName: str | None = None
    terminationMessagePath: str | None = None
    terminationMessagePolicy: str | None = None
    tty: bool | None = None
    volumeDevices: Annotated[list[VolumeDevice], MergeKey("devicePath")] | None = None
    volumeMounts: Annotated[list[VolumeMount], MergeKey("mountPath")] | None = None
    workingDir: str | None = None
