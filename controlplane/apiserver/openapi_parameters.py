"""The query parameters of the API as its OpenAPI documents show them: the type of each and what it is for.

A parameter means the same wherever it is taken, but for `container`, `stdout` and `stderr` of a pod's log and streams,
whose texts fit both.
"""

from __future__ import annotations

from typing import NamedTuple


class Parameter(NamedTuple):
    """A query parameter's OpenAPI type and its text."""

    type: str
    text: str


PARAMETERS = {
    # of lists and watches
    "allowWatchBookmarks": Parameter(
        "boolean", "Whether a watch may send BOOKMARK events, which tell the resource version that it has come to."
    ),
    "continue": Parameter("string", "Where the list goes on: the continue value of the part before."),
    "fieldSelector": Parameter("string", "Restrict the list of returned objects by their fields. Everything if empty."),
    "labelSelector": Parameter("string", "Restrict the list of returned objects by their labels. Everything if empty."),
    "limit": Parameter("integer", "The most objects that a list returns at once; the rest comes with continue."),
    "resourceVersion": Parameter(
        "string", "The version of the store that the list has, or that the watch begins after."
    ),
    "resourceVersionMatch": Parameter("string", "How resourceVersion applies to a list: Exact or NotOlderThan."),
    "sendInitialEvents": Parameter(
        "boolean", "Whether a watch begins with an ADDED event for every object there is, and a bookmark after them."
    ),
    "timeoutSeconds": Parameter("integer", "How long a list or watch may take, in seconds."),
    "watch": Parameter(
        "boolean",
        "Watch for changes to the described resources: return them as a stream of add, update and remove events.",
    ),
    # of writes
    "dryRun": Parameter("string", "With All, go through every stage of the request and store nothing."),
    "fieldManager": Parameter("string", "Who makes the changes, for the owners of fields. The user agent if empty."),
    "fieldValidation": Parameter(
        "string", "What becomes of unknown and doubled fields: Ignore drops them, Warn warns, Strict fails."
    ),
    "force": Parameter("boolean", "Whether an apply takes over fields that others own. Forbidden for other patches."),
    # of deletions
    "gracePeriodSeconds": Parameter("integer", "How long the object may take to end, in seconds; 0 means at once."),
    "orphanDependents": Parameter("boolean", "Whether dependents stay. Deprecated: propagationPolicy is used instead."),
    "propagationPolicy": Parameter("string", "What becomes of dependents: Orphan, Background or Foreground."),
    # of a pod's log
    "follow": Parameter("boolean", "Whether to go on with what the container writes from now on."),
    "limitBytes": Parameter("integer", "The most bytes to return."),
    "previous": Parameter("boolean", "Whether the log is that of the container's run before."),
    "sinceSeconds": Parameter("integer", "How old a line may be, in seconds."),
    "sinceTime": Parameter("string", "The time (RFC 3339) from which lines are returned."),
    "stream": Parameter("string", "Which stream to return: All, Stdout or Stderr."),
    "tailLines": Parameter("integer", "How many lines from the end to return. All when left out."),
    "timestamps": Parameter("boolean", "Whether every line begins with its time."),
    # of a pod's streams
    "command": Parameter("string", "The command to run and its arguments, one parameter each. No shell runs it."),
    "container": Parameter("string", "The container. The pod's only one when left out."),
    "stderr": Parameter("boolean", "Whether to return the container's standard error."),
    "stdin": Parameter("boolean", "Whether to pass standard input to the container."),
    "stdout": Parameter("boolean", "Whether to return the container's standard output."),
    "tty": Parameter("boolean", "Whether the container's streams are a terminal."),
    # of proxies and port forwarding
    "path": Parameter("string", "The path of the request that is passed on."),
    "ports": Parameter("integer", "The ports to forward."),
}
"""Every query parameter of an operation, by name."""
