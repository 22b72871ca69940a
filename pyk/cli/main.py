"""The `pyk` command: finds the command's module, runs it, and turns what goes wrong into one line and an exit status.

Only the module of the command that was asked for is imported, so that `pyk get pods` starts in a blink; `pyk --help`
reads all of them. A module of commands has `register(subparsers)`, and its commands set `run`, a function of the
parsed arguments that returns the exit status. Those that take the words behind `--` also set `takes_command`, and find
them as `arguments.behind`.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from pyk.api.status import ApiError
from pyk.errors import UserError

COMMANDS = {
    "up": "cluster",
    "down": "cluster",
    "node": "cluster",
    "server": "machine",
    "agent": "machine",
    "token": "token",
    "install": "install",
    "uninstall": "install",
    "backup": "keep",
    "restore": "keep",
    "cert": "keep",
    "apply": "apply",
    "create": "apply",
    "delete": "delete",
    "get": "get",
    "describe": "describe",
    "logs": "logs",
    "exec": "exec",
    "scale": "scale",
    "rollout": "rollout",
    "cordon": "drain",
    "uncordon": "drain",
    "drain": "drain",
    "top": "top",
    "net": "net",
    "why": "why",
    "simulate": "simulate",
    "image": "image",
    "version": "version",
    "completion": "completion",
}
"""Each command and the module of `pyk.cli` that has it."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise UserError(f"{message}; see '{self.prog} --help'")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command: the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        parser = build_parser(given)
        words, behind = _split(given)
        parsed = parser.parse_args(words)
        parsed.behind = behind
        if behind and not getattr(parsed, "takes_command", False):
            raise UserError(f"nothing goes behind '--' here: {' '.join(behind)}")
        if not hasattr(parsed, "run"):
            parser.print_help()
            return 0 if not given else 1
        status: int = parsed.run(parsed)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return 130
    except ApiError as error:
        return _fail(_server_error(error))
    except UserError as error:
        return _fail(str(error))
    return status


def build_parser(given: Sequence[str]) -> argparse.ArgumentParser:
    """The parser with the command that the arguments name, or with all of them."""
    parser = _Parser(
        prog="pyk",
        description="A small container orchestrator that speaks the Kubernetes API.",
        epilog="Start with 'pyk up', then 'pyk apply -f manifests/app.yaml' and 'pyk get pods'.",
    )
    subparsers = parser.add_subparsers(metavar="COMMAND", parser_class=_Parser)
    named = next((word for word in given if word in COMMANDS), None)
    wanted = {COMMANDS[named]} if named and named == given[0] else set(COMMANDS.values())
    for module in dict.fromkeys(COMMANDS.values()):
        if module in wanted:
            importlib.import_module(f"pyk.cli.{module}").register(subparsers)
    return parser


def _split(given: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Our own words, and those behind the first `--`: a command for a container, whose options are not ours."""
    if "--" not in given:
        return given, ()
    end = list(given).index("--")
    return given[:end], given[end + 1 :]


def _fail(message: str) -> int:
    print(f"pyk: {message}", file=sys.stderr)
    return 1


def _server_error(error: ApiError) -> str:
    kind = f" ({error.reason})" if error.reason and error.reason not in ("Invalid", "BadRequest") else ""
    return f"the server refused{kind}: {error.message}"


if __name__ == "__main__":
    sys.exit(main())
