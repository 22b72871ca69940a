"""`pyk server` and `pyk agent`: this machine as part of a cluster of several, in the foreground."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from pyk.machine import options as machine_options
from pyk.machine.options import AGENT_CONFIG, SERVER_CONFIG, AgentOptions, ServerOptions
from pyk.reconcile.clock import RealClock


def register(subparsers: Any) -> None:
    """Add the commands."""
    for name, options, config, run, text in (
        ("server", ServerOptions, SERVER_CONFIG, run_server, "be the control plane of a cluster of several machines"),
        ("agent", AgentOptions, AGENT_CONFIG, run_agent, "be a node of a cluster of several machines"),
    ):
        parser = subparsers.add_parser(name, help=text)
        parser.add_argument("--config", type=Path, default=config, metavar="FILE", help=f"options (default {config})")
        machine_options.add_options(parser, options)
        parser.set_defaults(run=run)


def run_server(arguments: argparse.Namespace) -> int:
    """Be the control plane until a signal ends it."""
    from pyk.machine import server
    from pyk.reconcile.process import run_component

    values = machine_options.read_file(ServerOptions, arguments.config)
    options = ServerOptions(**{**values, **machine_options.given(ServerOptions, arguments)})
    clock = RealClock()
    prepared = server.prepare(options, clock)
    cluster = server.Cluster(prepared, clock, lambda line: print(line, flush=True))
    return run_component("server", cluster.run)


def run_agent(arguments: argparse.Namespace) -> int:
    """Join if need be, and become the agent."""
    from pyk.lab.up import need_root
    from pyk.machine import agent
    from pyk.machine.controlplane import program_environment

    need_root("pyk agent")
    values = machine_options.read_file(AgentOptions, arguments.config)
    options = AgentOptions(**{**values, **machine_options.given(AgentOptions, arguments)})
    prepared = agent.prepare(options, RealClock())
    sys.stdout.flush()
    os.execve(prepared.arguments[0], list(prepared.arguments), {**program_environment(), **prepared.environment})
    return 0
