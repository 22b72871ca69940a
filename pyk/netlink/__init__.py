"""Links, addresses, routes and neighbours over rtnetlink: requests in batches, answers in one read.

pyroute2's message classes encode and decode; the socket is a plain one that belongs to one network namespace, and
every batch is one `send`. That makes a pod's network two system calls long, and blocking: callers with an event
loop use a thread. Requests are values made by the functions below (`add_bridge`, `add_route`, ...).

The kernel works through a batch in order and does not stop at an error. `Netlink.execute` raises
`NetlinkFailure` for the first request that failed with an error other than those it tolerates.
Source: rtnetlink(7), netlink(7).
"""

from __future__ import annotations

from pyk.netlink.conversation import (
    Interface,
    Link,
    Neighbour,
    Netlink,
    Network,
    Route,
)
from pyk.netlink.links import (
    add_bridge,
    add_link,
    add_to_bridge,
    add_veth,
    add_vxlan,
    bring_up,
    delete_group,
    delete_link,
    set_group,
    set_mtu,
    without_link_local,
)
from pyk.netlink.messages import (
    BRIDGE_FAMILY,
    GONE,
    ROUTE_PROTOCOL,
    NetlinkFailure,
    Request,
)
from pyk.netlink.namespaces import (
    in_namespace,
    visit,
)
from pyk.netlink.routes import (
    add_address,
    add_forwarding,
    add_neighbour,
    add_route,
    add_unreachable,
    delete_address,
    delete_forwarding,
    delete_neighbour,
    delete_route,
)
from pyk.netlink.traffic import (
    limit_rate,
    redirect_received,
    run_no_more,
    run_nothing,
    run_on_received,
)

__all__ = [
    "Interface",
    "Link",
    "Neighbour",
    "Netlink",
    "Network",
    "Route",
    "add_bridge",
    "add_link",
    "add_to_bridge",
    "add_veth",
    "add_vxlan",
    "bring_up",
    "delete_group",
    "delete_link",
    "set_group",
    "set_mtu",
    "without_link_local",
    "BRIDGE_FAMILY",
    "GONE",
    "ROUTE_PROTOCOL",
    "NetlinkFailure",
    "Request",
    "in_namespace",
    "visit",
    "add_address",
    "add_forwarding",
    "add_neighbour",
    "add_route",
    "add_unreachable",
    "delete_address",
    "delete_forwarding",
    "delete_neighbour",
    "delete_route",
    "limit_rate",
    "redirect_received",
    "run_no_more",
    "run_nothing",
    "run_on_received",
]
