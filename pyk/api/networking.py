"""IngressClass and Ingress (networking.k8s.io/v1)."""

from __future__ import annotations

from pyk.api.base import Int32, Model
from pyk.api.core_volumes import TypedLocalObjectReference
from pyk.api.meta import ObjectMeta


class IngressClassParametersReference(Model):
    kind: str
    name: str
    apiGroup: str | None = None
    namespace: str | None = None
    scope: str | None = None


class IngressClassSpec(Model):
    controller: str | None = None
    parameters: IngressClassParametersReference | None = None


class IngressClass(Model):
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    spec: IngressClassSpec | None = None


class ServiceBackendPort(Model):
    name: str | None = None
    number: Int32 | None = None


class IngressServiceBackend(Model):
    name: str
    port: ServiceBackendPort | None = None


class IngressBackend(Model):
    resource: TypedLocalObjectReference | None = None
    service: IngressServiceBackend | None = None


class HTTPIngressPath(Model):
    backend: IngressBackend
    pathType: str
    path: str | None = None


class HTTPIngressRuleValue(Model):
    paths: list[HTTPIngressPath]


class IngressRule(Model):
    host: str | None = None
    http: HTTPIngressRuleValue | None = None


class IngressTLS(Model):
    hosts: list[str] | None = None
    secretName: str | None = None


class IngressSpec(Model):
    defaultBackend: IngressBackend | None = None
    ingressClassName: str | None = None
    rules: list[IngressRule] | None = None
    tls: list[IngressTLS] | None = None


class IngressPortStatus(Model):
    port: Int32
    protocol: str
    error: str | None = None


class IngressLoadBalancerIngress(Model):
    hostname: str | None = None
    ip: str | None = None
    ports: list[IngressPortStatus] | None = None


class IngressLoadBalancerStatus(Model):
    ingress: list[IngressLoadBalancerIngress] | None = None


class IngressStatus(Model):
    loadBalancer: IngressLoadBalancerStatus | None = None


class Ingress(Model):
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    spec: IngressSpec | None = None
    status: IngressStatus | None = None
