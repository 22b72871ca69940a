"""`pyk completion bash|zsh`: a script that completes commands, options and kinds."""

from __future__ import annotations

import argparse
from typing import Any

from pyk.api.kinds import TABLE


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser("completion", help="print a shell's completion script")
    parser.add_argument("shell", choices=["bash", "zsh"])
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from pyk.cli.main import COMMANDS, build_parser

    parser = build_parser([])
    options = {name: " ".join(_options(_subparser(parser, name))) for name in COMMANDS}
    kinds = " ".join(sorted({word for kind in TABLE for word in (kind.plural, kind.singular, *kind.short_names)}))
    print(_script(arguments.shell, options, kinds))
    return 0


def _subparser(parser: argparse.ArgumentParser, name: str) -> argparse.ArgumentParser:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found: argparse.ArgumentParser = action.choices[name]
            return found
    raise KeyError(name)


def _options(parser: argparse.ArgumentParser) -> list[str]:
    return sorted(option for action in parser._actions for option in action.option_strings if option.startswith("--"))


def _script(shell: str, options: dict[str, str], kinds: str) -> str:
    cases = "\n".join(f'            {name}) options="{words}" ;;' for name, words in options.items())
    lead = "autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else ""
    return f"""{lead}# source <(pyk completion {shell})
_pyk_names() {{
    COMPREPLY=($(compgen -W "$(pyk get "$1" -o name 2>/dev/null | cut -d/ -f2)" -- "$2"))
}}
_pyk() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" options="" words="{kinds}"
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "{" ".join(options)}" -- "$current"))
        return
    fi
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
    case "$current" in
        -*) COMPREPLY=($(compgen -W "$options" -- "$current")) ;;
        *)  case "${{COMP_WORDS[COMP_CWORD-1]}}" in
                -f|--filename|--kubeconfig) COMPREPLY=($(compgen -f -- "$current")) ;;
                get|describe|delete|scale) COMPREPLY=($(compgen -W "$words" -- "$current")) ;;
                -n|--namespace) _pyk_names ns "$current" ;;
                logs|exec) _pyk_names pods "$current" ;;
                *) _pyk_names "${{COMP_WORDS[2]}}" "$current" ;;
            esac ;;
    esac
}}
complete -F _pyk pyk"""
