"""`pyk up`, `pyk down`, `pyk node`: a cluster on this machine."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from pyk.cli.logs import seconds_of
from pyk.cli.noderemove import register as register_remove
from pyk.errors import UserError
from pyk.lab import control
from pyk.lab.defaults import READY_SECONDS, default_data_dir
from pyk.lab.layout import DEFAULT_NAME, Layout, Options
from pyk.lab.state import ClusterState, is_ours


def register(subparsers: Any) -> None:
    """Add the commands."""
    up = subparsers.add_parser("up", help="start a cluster on this machine", description=_UP)
    _add_names(up)
    up.add_argument("--nodes", type=int, metavar="N", help="how many nodes (default 3)")
    up.add_argument("--node-cpus", metavar="CPUS", help="cpu budget of each node, such as 2 or 1500m (default 2)")
    up.add_argument("--node-memory", metavar="SIZE", help="memory budget of each node (default 2Gi)")
    up.add_argument("--max-pods", type=int, metavar="N", help="how many pods a node takes (default 110)")
    up.add_argument("--store", choices=("sqlite", "etcd"), help="where the state is kept (default sqlite)")
    up.add_argument("--etcd-endpoints", metavar="HOST:PORT,...", help="a running etcd (default: start one)")
    up.add_argument("--port", type=int, metavar="PORT", help="the API server's port (default 6443)")
    up.add_argument("--ip-family", choices=("ipv4", "ipv6", "dual"), help="of nodes, pods and services (default ipv4)")
    up.add_argument("--segments", type=int, metavar="N", help="spread the nodes over N segments with a router between")
    up.add_argument(
        "--network-backend",
        choices=("auto", "host-routes", "vxlan", "wireguard"),
        help="how nodes reach each other's pods (default auto: routes on one segment, VXLAN to others)",
    )
    up.add_argument("--scheduler-config", metavar="FILE", help="a KubeSchedulerConfiguration: profiles and plug-ins")
    up.add_argument(
        "--timeout", metavar="DURATION", help="how long the nodes may take to become ready, such as 5m (default 60s)"
    )
    up.add_argument("--detach", action="store_true", help="return when the cluster is ready and leave it running")
    up.add_argument("--hints", action="store_true", help="start nothing, say what to try with the running cluster")
    up.set_defaults(run=run_up)

    down = subparsers.add_parser("down", help="stop the cluster and remove everything of it, its data included")
    _add_names(down)
    down.set_defaults(run=run_down)

    node = subparsers.add_parser("node", help="power a node of 'pyk up' off and on; remove a node for good")
    actions = node.add_subparsers(metavar="ACTION", required=True)
    register_remove(actions)
    for action, run, text in (
        ("stop", run_node_stop, "pull the plug: everything on the node ends at once"),
        ("start", run_node_start, "boot the node again"),
        ("list", run_node_list, "the nodes, and whether they have power"),
    ):
        parser = actions.add_parser(action, help=text)
        _add_names(parser, kubeconfig=False)
        if action != "list":
            parser.add_argument("node", metavar="NODE", help="for instance node-2")
        parser.set_defaults(run=run)


_UP = """Start a cluster on this machine: every node is a network namespace with an address of its own and a control
group with a budget of its own. Without --detach it runs until Ctrl-C. The data stays for the next 'pyk up';
'pyk down' removes it."""


def _add_names(parser: argparse.ArgumentParser, *, kubeconfig: bool = True) -> None:
    parser.add_argument("--name", metavar="NAME", help="the cluster's name; several can run at once (default pyk)")
    parser.add_argument("--data-dir", metavar="DIR", help="where its data is (default /var/lib/pyk)")
    if kubeconfig:
        parser.add_argument("--kubeconfig", metavar="FILE", help="the kubeconfig to write (default ~/.pyk/kubeconfig)")


def run_up(arguments: argparse.Namespace) -> int:
    """Start the cluster: in the foreground until it is asked to stop, or detached."""
    from pyk.lab import defaults, ready, up

    limit = _limit(arguments.timeout)
    up.need_root("pyk up")
    endpoints = arguments.etcd_endpoints
    given = {
        "name": arguments.name,
        "data_dir": arguments.data_dir,
        "nodes": arguments.nodes,
        "node_cpus": arguments.node_cpus,
        "node_memory": arguments.node_memory,
        "max_pods": arguments.max_pods,
        "store": arguments.store or ("etcd" if endpoints else None),
        "etcd_endpoints": tuple(part.split("://")[-1] for part in endpoints.split(",")) if endpoints else None,
        "port": arguments.port,
        "ip_family": arguments.ip_family,
        "segments": arguments.segments,
        "network_backend": arguments.network_backend,
        "kubeconfig": arguments.kubeconfig,
        "scheduler_config": os.path.abspath(config) if (config := arguments.scheduler_config) else config,
    }
    options = defaults.with_defaults(given, Path.home())
    if arguments.hints:
        _print_hints(_running_layout(Path(options.data_dir)))
        return 0
    # A kill is treated like Ctrl-C: the half-started cluster is taken back. Ctrl-C counts even where it was ignored by
    # whoever started us, as it is for what a shell script starts in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    with Steps() as tell:
        try:
            layout, lock = up.prepare(options, tell)
        except up.AlreadyRunning as present:
            tell("cluster", f"{present.layout.options.name} runs already at {present.layout.server}")
            return 0
        running = up.start(layout, lock)
        try:
            ready.wait_ready(running, tell, seconds=limit)
            if arguments.detach:
                up.detach(running)
                return 0
        except BaseException:
            tell("cluster", "stopping")
            _stop(running)
            raise
    return _stay(running)


def _limit(text: str | None) -> float:
    """How many seconds the nodes get."""
    if text is None:
        return READY_SECONDS
    seconds = seconds_of(text)
    if seconds <= 0:
        raise UserError("--timeout must be longer than nothing: without time no node becomes ready")
    return seconds


def run_down(arguments: argparse.Namespace) -> int:
    """Remove the cluster."""
    from pyk.lab import defaults, down, up

    up.need_root("pyk down")
    name, data_dir = _named(arguments)
    kubeconfig = Path(arguments.kubeconfig or defaults.default_kubeconfig(name, Path.home())).absolute()
    with Steps() as tell:
        found = down.take_down(data_dir, name, tell, kubeconfig=kubeconfig)
        tell("cluster", f"{name} is down, nothing of it is left" if found else f"there is no cluster {name}")
    return 0


def run_node_stop(arguments: argparse.Namespace) -> int:
    """Power a node off."""
    _need_root("pyk node stop")
    control.ask(_named(arguments)[1], {"operation": "stop-node", "node": arguments.node})
    print(f"{arguments.node} is off")
    return 0


def run_node_start(arguments: argparse.Namespace) -> int:
    """Power a node on."""
    _need_root("pyk node start")
    control.ask(_named(arguments)[1], {"operation": "start-node", "node": arguments.node})
    print(f"{arguments.node} is on")
    return 0


def run_node_list(arguments: argparse.Namespace) -> int:
    """Show which nodes have power."""
    _need_root("pyk node list")
    data_dir = _named(arguments)[1]
    state = control.ask(data_dir, {"operation": "status"})
    layout = _running_layout(data_dir)
    for node, power in state["nodes"].items():
        agent = state["processes"].get(f"agent-{node}", "-")
        print(f"{node}  {power:3}  {layout.node_address(node)}  agent {agent}  {layout.node_cgroup(node)}")
    return 0


class Steps:
    """What `pyk up` and `pyk down` do, one line a step: redrawn in place on a terminal, printed elsewhere."""

    def __init__(self) -> None:
        self._rows: dict[str, str] = {}
        self._live: Any = None

    def __enter__(self) -> Steps:
        if sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(refresh_per_second=8)
            self._live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._live is not None:
            self._live.update(self._table(finished=error[0] is None), refresh=True)
            self._live.__exit__(*error)

    def __call__(self, step: str, detail: str) -> None:
        if self._rows.get(step) == detail:
            return
        self._rows.pop(step, None)
        self._rows[step] = detail
        if self._live is not None:
            self._live.update(self._table(finished=False), refresh=True)
        else:
            print(f"{step}: {detail}", flush=True)

    def _table(self, *, finished: bool) -> Any:
        from rich.spinner import Spinner
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
        for index, (step, detail) in enumerate(self._rows.items()):
            is_last = index == len(self._rows) - 1 and not finished
            table.add_row(
                Spinner("dots") if is_last else Text("✓", style="green"), Text(step), Text(detail, style="dim")
            )
        return table


def _stay(running: Any) -> int:
    """Wait until the supervisor ends or somebody asks for the end."""
    try:
        _print_hints(running.layout)
        print("Ctrl-C stops the cluster; its data stays.", flush=True)
        status: int = running.process.wait()
    except KeyboardInterrupt:
        with suppress(OSError):  # the terminal may be what went away
            print("\nstopping the cluster ...", flush=True)
        _stop(running)
        down = f"pyk down{own_options(running.layout.options)}"
        print(f"stopped; 'pyk up' continues with the data in {running.layout.data_dir}, '{down}' removes it")
        return 0
    _stop(running)
    raise UserError(f"the supervisor ended with status {status}: see {running.layout.log_dir / 'supervisor.log'}")


def _stop(running: Any) -> None:
    """Stop the cluster whatever else is pressed: a second Ctrl-C would leave half of it."""
    from pyk.lab import up

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    up.stop(running)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _need_root(command: str) -> None:
    from pyk.lab import up

    up.need_root(command)


def _named(arguments: argparse.Namespace) -> tuple[str, Path]:
    """The name and the data folder that the options mean."""
    name = arguments.name or DEFAULT_NAME
    data_dir = Path(arguments.data_dir).absolute() if arguments.data_dir else default_data_dir(name)
    state = ClusterState.load(data_dir) if is_ours(data_dir) else None
    if state is not None:
        if arguments.name and state.options.name != arguments.name:
            raise UserError(f"{data_dir} has the cluster {state.options.name}, not {arguments.name}")
        name = state.options.name
    return name, data_dir


def _running_layout(data_dir: Path) -> Layout:
    state = ClusterState.load(data_dir)
    if state is None or state.options.subnet is None:
        raise UserError(f"no cluster runs on {data_dir}: start it with 'pyk up'")
    return state.layout


def own_options(options: Options) -> str:
    """What `pyk down` and `pyk node` need to be told to mean this cluster and not the one of the default name."""
    if options.data_dir != str(default_data_dir(options.name)):
        return f" --data-dir {shlex.quote(options.data_dir)}"
    return "" if options.name == DEFAULT_NAME else f" --name {options.name}"


def _print_hints(layout: Layout) -> None:
    options: Options = layout.options
    nodes = "1 node" if options.nodes == 1 else f"{options.nodes} nodes"
    print(f"cluster {options.name}: {nodes}, API server {layout.server}, kubeconfig {options.kubeconfig}")
    is_default = options.kubeconfig == str(Path.home() / ".pyk" / "kubeconfig")
    own = "" if is_default else f" --kubeconfig {shlex.quote(options.kubeconfig)}"
    pyk = sys.argv[0] if os.sep in sys.argv[0] else "pyk"
    print("try:")
    for command, what in (
        (f"get pods -o wide{own}", "what runs where"),
        (f"apply -f manifests/app.yaml{own}", "run an app"),
        (f"logs -f deployment/hello{own}", "what it says"),
        (f"scale deployment/hello --replicas=6{own}", "more of it"),
        (
            f"node stop node-{min(2, options.nodes)}{own_options(options)}",
            "pull the plug of a node, see its pods move",
        ),
        (f"down{own_options(options)}", "remove everything"),
    ):
        print(f"  {pyk} {command:<42} # {what}")
