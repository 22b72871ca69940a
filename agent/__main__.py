"""`python -m agent`: one node's agent, put together.

Ends on SIGTERM or SIGINT and leaves the containers running; the next agent on the same state directory adopts them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Mapping

from agent.access import Access
from agent.api import NodeAPI
from agent.apiservers import ApiServers
from agent.capacity import NodeResources, allocatable, for_pods, observations, pods_group_limits
from agent.certificates import CertificateKeeper
from agent.config import CLIENT_FILE, SERVING_FILE, AgentConfig, parse
from agent.cpus.manager import BadState, CpuManager
from agent.cpus.topology import parse_cpus, read_topology
from agent.dns.service import DnsSettings, NameServer
from agent.eviction.manager import EvictionManager, EvictionSettings
from agent.eviction.thresholds import Observations
from agent.eviction.thresholds import for_pods as for_pods_too
from agent.heartbeat import Heartbeat
from agent.images.collect import ImageCollector, Thresholds
from agent.images.pull import Puller
from agent.images.registries import RegistriesFile
from agent.images.store import ImageStore
from agent.jumps import follow_jumps
from agent.measuring import Meter
from agent.metricspages import MetricsPages
from agent.network.announce import Announcer
from agent.network.api import NetworkAPI
from agent.network.bridge import BridgeNetwork
from agent.network.encryption import KEY_FILE, ensure_key
from agent.network.loop import NetworkLoop
from agent.network.podrules import PodRules, pod_document_facts
from agent.network.proxy import ServiceLoop, service_facts, slice_facts
from agent.network.routes import WIREGUARD, route_facts
from agent.network.rules import NodeRules
from agent.network.segment import Segment
from agent.network.station import Station
from agent.node import Identity, NodeRegistrar, machine_info, shown_image
from agent.nodeevents import events_of
from agent.oomwatch import follow_oom
from agent.options import as_configuration
from agent.pods.environment import ConfigError as CannotConfigure
from agent.pods.manager import PodManager
from agent.pods.servicelinks import service_variables
from agent.pods.settings import PodSettings
from agent.readiness import Readiness
from agent.runtime import apparmor
from agent.runtime.cgroups import detect
from agent.runtime.native import NativeRuntime
from agent.stalls import MACHINE, follow_memory
from agent.stats import Stats
from agent.volumes.local import LocalVolumes
from agent.volumes.manager import VolumeManager
from pyk.api import signers
from pyk.api.kinds import ENDPOINT_SLICE, NAMESPACE, NETWORK_POLICY, NODE, POD, SERVICE
from pyk.api.objects import Object
from pyk.client.client import Client
from pyk.client.config import ConfigError, load_kubeconfig
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.machine import address
from pyk.network.names import WIREGUARD_KEY
from pyk.reconcile.clock import Clock, RealClock
from pyk.reconcile.process import run_component

_NO_CONTAINER = "none"
"""Asking for it costs the runtime next to nothing, and shows that it answers."""


async def run(config: AgentConfig, cpus: CpuManager) -> None:
    """Be the node until cancelled."""
    clock = RealClock()
    for folder in (config.state_dir, config.image_dir):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    cgroups = detect()
    runtime = NativeRuntime(config.state_dir / "runtime", cgroups=cgroups, clock=clock, handlers=config.runtimes)
    images = ImageStore(config.image_dir, clock)
    images.source = Puller(images, RegistriesFile(config.registries), clock)
    readiness = Readiness(clock)
    identity = Identity(
        config.node_name,
        config.node_ips,
        config.port,
        config.labels,
        machine_info(),
        tuple(sorted(config.runtimes)),
        config.installation_id,
        annotations=await asyncio.to_thread(_annotations, config),
    )
    options = config.options
    resources = NodeResources(
        cgroups, config.cgroup_root, config.state_dir, config.image_dir, max_pods=options.max_pods
    )
    reserved = options.reserved
    enforces = "pods" in options.enforce_node_allocatable
    balancer = ApiServers(config.servers_file, clock) if config.servers_file is not None else None
    async with (
        Client(load_kubeconfig(config.kubeconfig), user_agent="kubelet/pyk") as client,
        Client(load_kubeconfig(config.network_kubeconfig), user_agent="kube-proxy/pyk") as network_client,
        asyncio.TaskGroup() as group,
    ):
        rules = NodeRules(pod_ranges=config.cluster_cidrs, service_ranges=config.service_cidrs)
        pod_rules = PodRules(
            rules,
            Informer(network_client, NETWORK_POLICY, clock=clock),
            Informer(network_client, POD, clock=clock, transform=pod_document_facts),
            Informer(network_client, NAMESPACE, clock=clock),
            clock=clock,
        )
        network = BridgeNetwork(
            node_name=config.node_name,
            node_ips=config.node_ips,
            cluster_cidrs=config.cluster_cidrs,
            service_cidrs=config.service_cidrs,
            state_dir=config.state_dir / "network",
            rules=rules,
            pod_filter=pod_rules,
            own_addresses=config.cluster_dns,
            backend=config.network_backend,
            segment=Segment(clock),
            with_shortcuts=config.network_shortcuts,
        )
        own_node = Informer(client, NODE, clock=clock, field_selector=f"metadata.name={config.node_name}")
        nodes = Informer(network_client, NODE, clock=clock, transform=route_facts)
        # Rules, names and variables of services are all made from these.
        services = Informer(network_client, SERVICE, clock=clock, transform=service_facts)
        slices = Informer(network_client, ENDPOINT_SLICE, clock=clock, transform=slice_facts)
        namespaces = Informer(network_client, NAMESPACE, clock=clock, transform=only_name)
        registrar = NodeRegistrar(
            client,
            own_node,
            identity,
            resources,
            clock=clock,
            allocatable=lambda node: allocatable(node, reserved, options.thresholds),
            pressures=lambda: eviction.conditions,
            not_ready=lambda: readiness.not_ready,
            images=lambda: [shown_image(image) for image in images.all()],
        )
        recorder = EventRecorder(client, "kubelet", config.node_name, clock=clock)
        pods = PodManager(
            client=client,
            runtime=runtime,
            network=network,
            images=images,
            volumes=VolumeManager(config.state_dir, clock),
            cgroups=cgroups,
            recorder=recorder,
            clock=clock,
            settings=PodSettings(
                node_name=config.node_name,
                node_addresses=config.node_ips,
                state_dir=config.state_dir,
                cgroup_root=config.cgroup_root,
                cluster_dns=config.cluster_dns,
                cluster_domain=config.cluster_domain,
                pod_pids_limit=options.pod_pids_limit if options.pod_pids_limit > 0 else None,
                pods_limits=pods_group_limits(for_pods(resources.capacity(), reserved)) if enforces else {},
                container_log_max_bytes=options.container_log_max_size,
                container_log_max_files=options.container_log_max_files,
                allowed_unsafe_sysctls=options.allowed_unsafe_sysctls,
                default_apparmor=await asyncio.to_thread(_default_apparmor),
            ),
            node=lambda: own_node.get(config.node_name),
            links=lambda pod: _links(pod, services),
            pressures=lambda: eviction.conditions,
            cpus=cpus,
        )
        collector = ImageCollector(
            images,
            clock,
            _image_trouble(recorder, config.node_name),
            Thresholds(
                options.image_gc_high_threshold_percent,
                options.image_gc_low_threshold_percent,
                options.image_minimum_gc_age,
            ),
        )
        eviction = EvictionManager(
            EvictionSettings(
                for_pods_too(options.thresholds) if enforces else options.thresholds,
                options.eviction_max_pod_grace_period,
                options.eviction_pressure_transition_period,
            ),
            pods.evictor,
            cgroups,
            observe=lambda: _signals(resources, reserved if enforces else None),
            free_disk=collector.free_unused,
            changed=registrar.changed,
            clock=clock,
        )
        meter = Meter(cgroups, config.cgroup_root, config.state_dir, config.image_dir, pods.evictor.active, clock=clock)
        station = Station(network, config.node_name, clock)
        api = NodeAPI(
            pods,
            runtime,
            Stats(meter, config.node_name, clock=clock),
            clock=clock,
            memory_capacity=lambda: resources.capacity().memory_bytes,
            not_ready=lambda: readiness.not_ready,
            local_volumes=LocalVolumes(config.state_dir / "local-volumes"),
            access=Access(client, config.node_name, clock=clock),
            metrics_pages=MetricsPages(meter, resources.capacity, config.node_name),
            configuration=as_configuration(options),
            more=NetworkAPI(network, station, clock, domain=config.cluster_domain).routes(),
        )
        name_server = NameServer(
            services,
            slices,
            namespaces,
            DnsSettings(config.cluster_dns, config.cluster_domain, [*config.cluster_cidrs, *config.service_cidrs]),
            clock,
        )
        readiness.on_change(registrar.changed)
        readiness.on_change(pods.node_changed)
        network_loop = NetworkLoop(network, nodes, config.node_name, clock=clock, readiness=readiness)
        service_loop = ServiceLoop(
            rules,
            services,
            slices,
            nodes,
            node_name=config.node_name,
            pod_ranges=config.cluster_cidrs,
            own_addresses=config.cluster_dns,
            announcer=Announcer(config.node_name, config.node_ips, config.cluster_dns),
            clock=clock,
            started=network_loop.started.wait,
        )
        for informer in (own_node, nodes, services, slices, namespaces):
            group.create_task(informer.run())
        if config.cluster_dns:
            group.create_task(name_server.run())
        group.create_task(_keep_runtime(runtime, readiness))
        group.create_task(network_loop.run())
        group.create_task(station.run())
        group.create_task(pod_rules.run())
        group.create_task(service_loop.run())
        group.create_task(registrar.run())
        _tell_of_node(recorder, own_node, config.node_name, clock.time())
        group.create_task(recorder.run())
        group.create_task(pods.run())
        group.create_task(follow_jumps(clock, pods.clock_jumped))
        if balancer is not None:
            balancer.follow(slices)
            group.create_task(balancer.run(config.balancer_port))
        if config.watch_node_ip:
            for node_ip in config.node_ips:
                group.create_task(address.watch(node_ip, clock))
        group.create_task(_serve(api, config, client, clock, group))
        group.create_task(collector.run())
        group.create_task(eviction.run())
        group.create_task(follow_oom(config.cgroup_root, _oom_told(recorder, config.node_name)))
        group.create_task(follow_memory(MACHINE / "memory", eviction.wake))
        group.create_task(Heartbeat(client, config.node_name, clock=clock).run())


async def _serve(api: NodeAPI, config: AgentConfig, client: Client, clock: Clock, group: asyncio.TaskGroup) -> None:
    """Serve the node API; with certificates that the agent renews itself, as soon as there is one to show."""
    certificate, key = config.pki_dir / "kubelet.crt", config.pki_dir / "kubelet.key"
    if config.rotate_certificates:
        own = CertificateKeeper(client, clock, config.node_name, signers.KUBELET_CLIENT, config.pki_dir / CLIENT_FILE)
        serving = CertificateKeeper(
            client,
            clock,
            config.node_name,
            signers.KUBELET_SERVING,
            config.pki_dir / SERVING_FILE,
            names=lambda: (config.node_name, *config.node_ips),
        )
        group.create_task(own.run())
        group.create_task(serving.run())
        await serving.is_there.wait()
        certificate = key = serving.file
    await api.serve(config.node_ips, config.port, config.pki_dir, certificate, key)


def _signals(resources: NodeResources, reserved: Mapping[str, int] | None) -> Observations:
    """What is left of the node; the pods are held to what is not `reserved`, where that is given. Blocks."""
    node = resources.capacity()
    pods_memory = None if reserved is None else for_pods(node, reserved).memory_bytes
    return observations(node, resources.load(node), pods_memory)


def _annotations(config: AgentConfig) -> dict[str, str]:
    """What other nodes have to know of this one."""
    if config.network_backend != WIREGUARD:
        return {}
    return {WIREGUARD_KEY: ensure_key(config.state_dir / "network" / KEY_FILE)}


def only_name(obj: Object) -> Object:
    """An object of which it matters only that there is one."""
    kept = {key: obj["metadata"].get(key) for key in ("name", "uid", "resourceVersion")}
    return {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "metadata": kept}


def _links(pod: Object, services: Informer) -> dict[str, str]:
    """The variables that tell a pod's containers of services. Raises `ConfigError` while those are unknown."""
    if not services.is_synced:
        raise CannotConfigure("services have not yet been read at least once, cannot construct envvars")
    return service_variables(pod, services.values())


def _default_apparmor() -> str:
    """The profile of containers that ask for none, loaded; empty where the kernel has no AppArmor."""
    if not apparmor.is_enabled():
        return ""
    if trouble := apparmor.load_default():
        logging.getLogger(__name__).warning("AppArmor: the default profile is not loaded: %s", trouble)
        return ""
    return apparmor.DEFAULT_PROFILE


def _image_trouble(recorder: EventRecorder, node_name: str) -> Callable[[str], None]:
    """Tells of a disk that cannot be freed, as an event of the node."""
    return lambda message: recorder.event(node_reference(node_name), "Warning", "FreeDiskSpaceFailed", message)


def _oom_told(recorder: EventRecorder, node_name: str) -> Callable[[str], None]:
    """Tells of a node that ran out of memory, as an event of it."""
    return lambda message: recorder.event(node_reference(node_name), "Warning", "SystemOOM", message)


def _tell_of_node(recorder: EventRecorder, own_node: Informer, node_name: str, started: float) -> None:
    """Tell of the agent's start, and from then on of what becomes of the node."""
    reference = node_reference(node_name)
    recorder.event(reference, "Normal", "Starting", "Starting kubelet.")

    def tell(old: Object | None, new: Object | None) -> None:
        if new is not None:
            for reason, message in events_of(old, new, started):
                recorder.event(reference, "Normal", reason, message)

    own_node.add_handler(tell)


def node_reference(node_name: str) -> Object:
    """The node as its events name it: by its name also where a UID is asked for, as the kubelet does."""
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node_name, "uid": node_name}}


async def _keep_runtime(runtime: NativeRuntime, readiness: Readiness) -> None:
    await readiness.bring_up("container runtime", runtime.start)
    await readiness.watch("container runtime", lambda: runtime.container(_NO_CONTAINER))


def _open_cpus(config: AgentConfig) -> CpuManager:
    """The processors of the node. Raises `BadState`, ValueError or OSError."""
    config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    options, topology = config.options, read_topology(os.sched_getaffinity(0))
    named = parse_cpus(options.reserved_system_cpus)
    return CpuManager.open(
        config.state_dir, options.cpu_manager_policy, topology, named, options.reserved.get("cpu", 0)
    )


def main() -> int:
    """Entry point: the exit status."""
    config = parse()
    try:
        load_kubeconfig(config.kubeconfig)
        cpus = _open_cpus(config)
    except (ConfigError, BadState, ValueError, OSError) as error:
        print(f"agent: {error}", file=sys.stderr)
        return 1
    return run_component(f"agent {config.node_name}", lambda: run(config, cpus), verbose=config.verbose)


if __name__ == "__main__":
    sys.exit(main())
