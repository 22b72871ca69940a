"""The informers that all loops of the process share: one a kind, with the indexes that more than one loop needs.

Kinds that some loop reads whole are kept without `managedFields`; of all others only what ownership, finalizers and
labels need is kept, so that secrets and config maps of a big cluster cost little memory and stay out of this process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from controlplane.controllers.endpoints.slices import service_of_slice
from controlplane.controllers.pods import node_of
from pyk.api.kinds import (
    CERTIFICATE_SIGNING_REQUEST,
    CLUSTER_ROLE,
    CONTROLLER_REVISION,
    CRON_JOB,
    DAEMON_SET,
    DEPLOYMENT,
    ENDPOINT_SLICE,
    ENDPOINTS,
    EVENT,
    HORIZONTAL_POD_AUTOSCALER,
    IP_ADDRESS,
    JOB,
    LEASE,
    NAMESPACE,
    NODE,
    PERSISTENT_VOLUME,
    PERSISTENT_VOLUME_CLAIM,
    POD,
    POD_DISRUPTION_BUDGET,
    REPLICA_SET,
    REPLICATION_CONTROLLER,
    RESOURCE_QUOTA,
    SERVICE,
    SERVICE_CIDR,
    STATEFUL_SET,
    STORAGE_CLASS,
    TABLE,
    Kind,
)
from pyk.api.objects import Object, controller_of, namespace_of
from pyk.client.client import Client
from pyk.client.informer import Informer
from pyk.reconcile.clock import Clock

KEPT_WHOLE = (
    CERTIFICATE_SIGNING_REQUEST,
    CLUSTER_ROLE,
    CONTROLLER_REVISION,
    CRON_JOB,
    DAEMON_SET,
    DEPLOYMENT,
    HORIZONTAL_POD_AUTOSCALER,
    JOB,
    LEASE,
    NAMESPACE,
    NODE,
    PERSISTENT_VOLUME,
    PERSISTENT_VOLUME_CLAIM,
    POD,
    POD_DISRUPTION_BUDGET,
    REPLICATION_CONTROLLER,
    REPLICA_SET,
    RESOURCE_QUOTA,
    ENDPOINTS,
    ENDPOINT_SLICE,
    IP_ADDRESS,
    SERVICE,
    SERVICE_CIDR,
    STATEFUL_SET,
    STORAGE_CLASS,
)
NOT_CACHED = (EVENT,)
"""Events come and go in numbers and own nothing; they are cleaned with their namespace by a live list."""


def shared_informers(client: Client, clock: Clock, kinds: Iterable[Kind] = TABLE) -> dict[Kind, Informer]:
    """One informer for each kind but `NOT_CACHED`, with its indexes; none is running yet.

    Indexes: `controller` (the uid of the controlling owner, or `none/NAMESPACE`) and `namespace`; for pods also
    `node` (the name of the node, empty while there is none), for EndpointSlices `service` (the key of their Service).
    """
    informers = {}
    for kind in kinds:
        if kind in NOT_CACHED or not kind.is_stored:
            continue
        transform = without_managed_fields if kind in KEPT_WHOLE else only_metadata
        informer = informers[kind] = Informer(client, kind, clock=clock, transform=transform)
        informer.add_index("namespace", lambda obj: (namespace_of(obj),))
        informer.add_index("controller", _controller)
        if kind is POD:
            informer.add_index("node", lambda pod: (node_of(pod),))
        if kind is ENDPOINT_SLICE:
            informer.add_index("service", service_of_slice)
    return informers


def without_managed_fields(obj: Object) -> Object:
    """The object as the loops read it."""
    obj["metadata"].pop("managedFields", None)
    return obj


_KEPT = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "labels",
    "ownerReferences",
    "finalizers",
    "deletionTimestamp",
)


def only_metadata(obj: Object) -> Object:
    """What the garbage collector and the namespace loop need of an object."""
    metadata: Mapping[str, object] = obj["metadata"]
    return {
        "apiVersion": obj["apiVersion"],
        "kind": obj["kind"],
        "metadata": {part: metadata[part] for part in _KEPT if part in metadata},
    }


def _controller(obj: Object) -> Iterable[str]:
    controller = controller_of(obj)
    return (controller["uid"] if controller is not None else f"none/{namespace_of(obj)}",)
