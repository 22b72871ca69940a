"""NetworkPolicy (networking.k8s.io/v1)."""

from __future__ import annotations

from pydantic import Field

from pyk.api.base import Int32, IntOrString, Model
from pyk.api.meta import LabelSelector, ObjectMeta


class IPBlock(Model):
    cidr: str
    except_: list[str] | None = Field(default=None, alias="except")


class NetworkPolicyPeer(Model):
    ipBlock: IPBlock | None = None
    namespaceSelector: LabelSelector | None = None
    podSelector: LabelSelector | None = None


class NetworkPolicyPort(Model):
    endPort: Int32 | None = None
    port: IntOrString | None = None
    protocol: str | None = None


class NetworkPolicyIngressRule(Model):
    from_: list[NetworkPolicyPeer] | None = Field(default=None, alias="from")
    ports: list[NetworkPolicyPort] | None = None


class NetworkPolicyEgressRule(Model):
    ports: list[NetworkPolicyPort] | None = None
    to: list[NetworkPolicyPeer] | None = None


class NetworkPolicySpec(Model):
    egress: list[NetworkPolicyEgressRule] | None = None
    ingress: list[NetworkPolicyIngressRule] | None = None
    podSelector: LabelSelector | None = None
    policyTypes: list[str] | None = None


class NetworkPolicy(Model):
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    spec: NetworkPolicySpec | None = None
