"""What commands that talk to a cluster share: the connection options, and the words by which people name objects."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pyk.api.kinds import TABLE, Kind, kind_named
from pyk.client.blocking import BlockingClient
from pyk.client.config import ClientConfig, load_kubeconfig
from pyk.errors import UserError


def add_connection_options(parser: argparse.ArgumentParser, *, namespaced: bool = True) -> None:
    """`--kubeconfig`, `--context` and, where objects have namespaces, `-n`."""
    parser.add_argument("--kubeconfig", metavar="FILE", help="the kubeconfig to use")
    parser.add_argument("--context", metavar="NAME", help="the kubeconfig's context to use")
    if namespaced:
        parser.add_argument("-n", "--namespace", metavar="NAME", help="the namespace (default: the context's)")


@dataclass
class Session:
    """One command's connection."""

    arguments: argparse.Namespace

    @cached_property
    def config(self) -> ClientConfig:
        return load_kubeconfig(self.arguments.kubeconfig, self.arguments.context)

    @cached_property
    def client(self) -> BlockingClient:
        return BlockingClient(self.config)

    @property
    def namespace(self) -> str:
        """The namespace to work in; empty for all of them (`-A`)."""
        if getattr(self.arguments, "all_namespaces", False):
            return ""
        return getattr(self.arguments, "namespace", None) or self.config.namespace


@dataclass(frozen=True, slots=True)
class Wanted:
    """Objects of one kind that a command is about: those with the names, or, without names, all."""

    kind: Kind
    names: tuple[str, ...] = ()


def find_kind(word: str) -> Kind:
    """The kind that the word means. Raises `UserError` when there is none."""
    kind = kind_named(word)
    if kind is None:
        known = ", ".join(sorted(kind.plural for kind in TABLE))
        raise UserError(f"the server doesn't have a resource type {word!r}; it has {known}")
    return kind


def parse_wanted(words: Sequence[str], *, need_names: bool = False) -> list[Wanted]:
    """What `pods`, `pods,deploy`, `all`, `pod web db` or `pod/web deploy/db` ask for. Raises `UserError`."""
    if not words:
        raise UserError("name what you mean: KIND, KIND NAME or KIND/NAME, for instance 'pods' or 'deployment/web'")
    if any("/" in word for word in words):
        wanted = [_slashed(word) for word in words]
    else:
        wanted = [Wanted(kind, tuple(words[1:])) for part in words[0].split(",") for kind in _kinds(part)]
    if need_names and any(not one.names for one in wanted):
        raise UserError(f"name the object: '{words[0]} NAME' or '{words[0]}/NAME'")
    return wanted


def _kinds(word: str) -> list[Kind]:
    if word == "all":
        return [kind for kind in TABLE if "all" in kind.categories]
    return [find_kind(word)]


def _slashed(word: str) -> Wanted:
    kind, slash, name = word.partition("/")
    if not slash or not kind or not name or "/" in name:
        raise UserError(f"{word!r} is not KIND/NAME; either all arguments have that form or none")
    return Wanted(find_kind(kind), (name,))
