"""The controller manager: all loops of the control plane in one process, fed by the same informers.

Each loop stands on its own and would run as well in a process of its own; together they share the caches, the
connection and the recorder of events. A loop that fails ends the process, whose supervisor starts it anew: nothing that
matters is only in memory.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from controlplane.controllers.autoscaling.loop import SYNC_SECONDS, AutoscalerLoop
from controlplane.controllers.bootstrapsigner import BootstrapSignerLoop
from controlplane.controllers.caches import shared_informers
from controlplane.controllers.cronjob import CronJobLoop
from controlplane.controllers.csrapproving import CsrApprovingLoop
from controlplane.controllers.csrcleaning import CsrCleaningLoop
from controlplane.controllers.csrsigning import Authority, CsrSigningLoop
from controlplane.controllers.daemonset import DaemonSetLoop
from controlplane.controllers.deployment import DeploymentLoop
from controlplane.controllers.descheduler import DeschedulerLoop
from controlplane.controllers.disruption import DisruptionLoop
from controlplane.controllers.endpoints.endpoints_loop import EndpointsLoop
from controlplane.controllers.endpoints.mirror_loop import MirroringLoop
from controlplane.controllers.endpoints.slice_loop import EndpointSliceLoop
from controlplane.controllers.garbagecollector import GarbageCollector
from controlplane.controllers.job import JobLoop
from controlplane.controllers.loadbalancer import LoadBalancerLoop
from controlplane.controllers.namespace import NamespaceLoop
from controlplane.controllers.nodeipam import NodeIpamLoop, Range
from controlplane.controllers.nodelifecycle import NodeLifecycleLoop
from controlplane.controllers.podgc import TERMINATED_THRESHOLD, PodGarbageCollector
from controlplane.controllers.replicaset import ReplicaSetLoop
from controlplane.controllers.resourcequota import ResourceQuotaLoop
from controlplane.controllers.roleaggregation import RoleAggregationLoop
from controlplane.controllers.rootca import RootCaLoop
from controlplane.controllers.serviceaccount import ServiceAccountLoop
from controlplane.controllers.servicecidr import ServiceCidrLoop
from controlplane.controllers.statefulset import StatefulSetLoop
from controlplane.controllers.storage.binder import VolumeBinderLoop
from controlplane.controllers.storage.ephemeral import EphemeralVolumeLoop
from controlplane.controllers.storage.protection import ClaimProtectionLoop, VolumeProtectionLoop
from controlplane.controllers.storage.provisioner import LOCAL, LocalProvisionerLoop
from controlplane.controllers.tainteviction import TaintEvictionLoop
from controlplane.controllers.tokencleaner import TokenCleanerLoop
from controlplane.controllers.ttlafterfinished import TtlAfterFinishedLoop
from pyk.api.kinds import (
    CERTIFICATE_SIGNING_REQUEST,
    CLUSTER_ROLE,
    CONTROLLER_REVISION,
    CRON_JOB,
    DAEMON_SET,
    DEPLOYMENT,
    JOB,
    LEASE,
    NAMESPACE,
    NODE,
    PERSISTENT_VOLUME_CLAIM,
    POD,
    REPLICA_SET,
    REPLICATION_CONTROLLER,
    SERVICE_ACCOUNT,
    STATEFUL_SET,
)
from pyk.client.client import Client
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.clock import Clock
from pyk.reconcile.controller import Controller


@dataclass(frozen=True, slots=True)
class Options:
    """Without `cluster_cidrs` the nodes' pod ranges are left alone.

    `root_ca` is the certificate of the cluster's authority as PEM text, published in every namespace unless empty.
    Of pods that have ended `terminated_pod_threshold` are kept, all of them if it is 0.
    With `deschedule_seconds` pods that are misplaced by now are looked for so often.
    Without an `authority` approved requests for certificates wait for somebody else to sign them.
    """

    cluster_cidrs: tuple[Range, ...] = ()
    node_monitor_grace_seconds: float = 8.0
    root_ca: str = ""
    authority: Authority | None = None
    autoscaler_sync_seconds: float = SYNC_SECONDS
    deschedule_seconds: float = 0.0
    terminated_pod_threshold: int = TERMINATED_THRESHOLD


class Loop(Protocol):
    """What every loop is to the manager."""

    controller: Controller


class Manager:
    """All loops over one client; `loops` are those beside the garbage collector, by name."""

    def __init__(self, client: Client, clock: Clock, options: Options) -> None:
        self.informers = shared_informers(client, clock)
        nodes, pods, sets = self.informers[NODE], self.informers[POD], self.informers[REPLICA_SET]
        namespaces = self.informers[NAMESPACE]
        self._recorders: list[EventRecorder] = []

        def recorder(component: str) -> EventRecorder:
            self._recorders.append(EventRecorder(client, component, clock=clock))
            return self._recorders[-1]

        node_recorder = recorder("node-controller")
        self._collector = GarbageCollector(
            client, recorder("garbage-collector-controller"), clock, self.informers.values()
        )
        grace = options.node_monitor_grace_seconds
        loops: list[Loop] = [
            DeploymentLoop(client, recorder("deployment-controller"), clock, self.informers[DEPLOYMENT], sets, pods),
            ReplicaSetLoop(client, recorder("replicaset-controller"), clock, sets, pods),
            ReplicaSetLoop(
                client, recorder("replication-controller"), clock, self.informers[REPLICATION_CONTROLLER], pods
            ),
            StatefulSetLoop(
                client,
                recorder("statefulset-controller"),
                clock,
                self.informers[STATEFUL_SET],
                pods,
                self.informers[PERSISTENT_VOLUME_CLAIM],
                self.informers[CONTROLLER_REVISION],
            ),
            DaemonSetLoop(
                client,
                recorder("daemonset-controller"),
                clock,
                self.informers[DAEMON_SET],
                pods,
                nodes,
                self.informers[CONTROLLER_REVISION],
            ),
            JobLoop(client, recorder("job-controller"), clock, self.informers[JOB], pods),
            CronJobLoop(client, recorder("cronjob-controller"), clock, self.informers[CRON_JOB], self.informers[JOB]),
            TtlAfterFinishedLoop(client, recorder("ttl-after-finished-controller"), clock, self.informers[JOB]),
            NamespaceLoop(client, recorder("namespace-controller"), clock, self.informers),
            ServiceAccountLoop(
                client, recorder("serviceaccount-controller"), clock, namespaces, self.informers[SERVICE_ACCOUNT]
            ),
            NodeLifecycleLoop(client, node_recorder, clock, nodes, self.informers[LEASE], pods, grace_seconds=grace),
            TaintEvictionLoop(client, recorder("taint-eviction-controller"), clock, nodes, pods),
            RoleAggregationLoop(client, clock, self.informers[CLUSTER_ROLE]),
            PodGarbageCollector(
                client,
                recorder("pod-garbage-collector"),
                clock,
                pods,
                nodes,
                threshold=options.terminated_pod_threshold,
            ),
            AutoscalerLoop(
                client,
                recorder("horizontal-pod-autoscaler"),
                clock,
                self.informers,
                sync_seconds=options.autoscaler_sync_seconds,
            ),
            DisruptionLoop(client, recorder("controllermanager"), clock, self.informers),
            VolumeBinderLoop(client, recorder("persistentvolume-controller"), clock, self.informers),
            LocalProvisionerLoop(client, recorder(LOCAL), clock, self.informers),
            ClaimProtectionLoop(client, node_recorder, clock, self.informers),
            VolumeProtectionLoop(client, node_recorder, clock, self.informers),
            EphemeralVolumeLoop(client, recorder("ephemeral_volume"), clock, self.informers),
            ResourceQuotaLoop(client, recorder("resourcequota-controller"), clock, self.informers),
            EndpointSliceLoop(client, clock, self.informers),
            EndpointsLoop(client, clock, self.informers),
            MirroringLoop(client, clock, self.informers),
            ServiceCidrLoop(client, recorder("service-cidr-controller"), clock, self.informers),
        ]
        if options.cluster_cidrs:
            loops.append(NodeIpamLoop(client, node_recorder, clock, nodes, options.cluster_cidrs))

        requests = self.informers[CERTIFICATE_SIGNING_REQUEST]
        csr_recorder = recorder("certificate-controller")
        loops += [
            CsrApprovingLoop(client, csr_recorder, clock, requests, nodes),
            CsrCleaningLoop(client, csr_recorder, clock, requests),
        ]
        if options.deschedule_seconds > 0:
            seconds = options.deschedule_seconds
            loops.append(DeschedulerLoop(client, recorder("descheduler"), clock, self.informers, seconds=seconds))
        if options.authority is not None:
            loops.append(CsrSigningLoop(client, csr_recorder, clock, requests, options.authority))

        balancer = LoadBalancerLoop(client, recorder("service-controller"), clock, self.informers)
        loops.append(balancer)

        bootstrap_recorder = recorder("bootstrap-signer")
        signer = BootstrapSignerLoop(client, bootstrap_recorder, clock)
        self._own_informers: list[Informer] = [balancer.pool, signer.tokens, signer.cluster_info]
        loops += [signer, TokenCleanerLoop(client, bootstrap_recorder, clock, signer.tokens)]
        if options.root_ca:
            publisher = RootCaLoop(
                client, recorder("root-ca-certificate-publisher"), clock, namespaces, options.root_ca
            )
            self._own_informers.append(publisher.informer)
            loops.append(publisher)

        self.loops = {loop.controller.name: loop for loop in loops}

    @property
    def is_synced(self) -> bool:
        """Whether every cache has been filled once."""
        return all(informer.is_synced for informer in self.informers.values())

    async def run(self) -> None:
        """Run every informer, recorder and loop until cancelled."""
        async with asyncio.TaskGroup() as group:
            for informer in (*self.informers.values(), *self._own_informers):
                group.create_task(informer.run())
            for recorder in self._recorders:
                group.create_task(recorder.run())
            # A loop sees its queue fill while the caches do, and works when they are filled.
            for informer in self.informers.values():
                await informer.wait_synced()
            group.create_task(self._collector.run())
            for loop in self.loops.values():
                group.create_task(loop.controller.run())
