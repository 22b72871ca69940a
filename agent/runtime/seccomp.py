"""Compile an OCI `linux.seccomp` document into the classic BPF program that seccomp(2) takes.

The program checks the architecture, finds the call's number in a binary tree of ranges and, for calls whose rules
depend on arguments, compares those. Semantics follow the OCI runtime specification and, where it is silent, what
libseccomp and runc do:

- entries are tried in order, the first that matches decides; conditions of one entry all have to hold, except that
  several on the same argument are alternatives (as runc has it);
- names that the architecture does not have are passed over;
- a call newer than any that the table of numbers knows gets ENOSYS where the default action is an error, so that
  programs fall back to older calls rather than fail with EPERM;
- an architecture that the document does not list, and x32 on x86-64, get ENOSYS.

Compiled in the agent; the spawner gets bytes.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.runtime import syscalls

_LOAD, _JUMP, _JUMP_EQUAL, _JUMP_GREATER, _JUMP_AT_LEAST = 0x20, 0x05, 0x15, 0x25, 0x35
_AND, _RETURN = 0x54, 0x06
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET, _ARGUMENTS_OFFSET = 0, 4, 16  # struct seccomp_data, little endian
_X32_BIT = 0x40000000
_ENOSYS = 38
_EPERM = 1
_MAX_INSTRUCTIONS = 4096

_AUDIT = {"SCMP_ARCH_X86_64": 0xC000003E, "SCMP_ARCH_X86": 0x40000003, "SCMP_ARCH_AARCH64": 0xC00000B7}
_COLUMNS = {"SCMP_ARCH_X86_64": 1, "SCMP_ARCH_X86": 2, "SCMP_ARCH_AARCH64": 3}
_MACHINES = {"x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86"), "aarch64": ("SCMP_ARCH_AARCH64",)}
_ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
_FLAGS = {"SECCOMP_FILTER_FLAG_TSYNC": 1, "SECCOMP_FILTER_FLAG_LOG": 2, "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4}
_DEFAULT_FLAGS = ("SECCOMP_FILTER_FLAG_SPEC_ALLOW",)
_OPERATORS = frozenset(f"SCMP_CMP_{name}" for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"))


class SeccompError(ValueError):
    """The document cannot be compiled; the text names what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A comparison of a 64-bit argument. For MASKED_EQ `value` is the mask and `other` what must come out."""

    index: int
    operator: str
    value: int
    other: int = 0


@dataclass(frozen=True, slots=True)
class Rule:
    """What a call gets when all conditions hold: `result` is the value that the filter returns."""

    conditions: tuple[Condition, ...]
    result: int


def compile_filter(document: Mapping[str, Any], machine: str | None = None) -> bytes:
    """The BPF program, 8 bytes an instruction, for this machine's architecture or another (`x86_64`, `aarch64`).

    Raises:
        SeccompError: an action or operator is not supported, or the program is too long.
    """
    native, *others = _MACHINES[machine or syscalls.MACHINE]
    architectures = [native, *(name for name in others if name in (document.get("architectures") or ()))]
    default = _result(document.get("defaultAction"), document.get("defaultErrnoRet"))
    unsupported = _result("SCMP_ACT_ERRNO", _ENOSYS)
    program = _Program()
    program.add(_LOAD, _ARCHITECTURE_OFFSET)
    for architecture in architectures:
        program.jump_unless(_JUMP_EQUAL, _AUDIT[architecture], f"not {architecture}")
        program.add(_LOAD, _NUMBER_OFFSET)
        if architecture == "SCMP_ARCH_X86_64":
            program.jump_if(_JUMP_AT_LEAST, _X32_BIT, "unsupported")
        rules, newest = _rules(document, _COLUMNS[architecture])
        _tree(program, _ranges(rules, default, newest, unsupported), architecture)
        program.label(f"not {architecture}")
    program.label("unsupported")
    program.add(_RETURN, unsupported)
    return program.assemble()


def filter_flags(document: Mapping[str, Any]) -> int:
    """The flags of seccomp(2) that the document asks for; SPEC_ALLOW for one that says nothing, as runc has it. Without
    it kernels before 5.16 switch speculation past stores off for whatever has a filter, which makes all of a
    container's code slower; a program that wants that asks for it (prctl(2), PR_SET_SPECULATION_CTRL)."""
    names = document.get("flags")
    try:
        return sum(_FLAGS[name] for name in (_DEFAULT_FLAGS if names is None else names))
    except KeyError as error:
        raise SeccompError(f"unknown seccomp flag {error.args[0]}") from None


@functools.cache
def syscall_numbers(column: int) -> dict[str, int]:
    """Names to numbers: column 1 is x86-64, 2 i386, 3 aarch64."""
    text = Path(__file__).with_name("syscall_numbers.txt").read_text(encoding="ascii")
    rows = (line.split() for line in text.splitlines() if not line.startswith("#"))
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


def _result(action: str | None, value: int | None) -> int:
    if action not in _ACTIONS:
        raise SeccompError(f"seccomp action {action} is not supported")
    if action in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        return _ACTIONS[action] | (_EPERM if value is None else value & 0xFFFF)
    return _ACTIONS[action]


def _rules(document: Mapping[str, Any], column: int) -> tuple[dict[int, list[Rule]], int]:
    """The rules of each call's number, in order, and the newest number that the architecture's table knows."""
    numbers = syscall_numbers(column)
    rules: dict[int, list[Rule]] = {}
    for entry in document.get("syscalls") or ():
        result = _result(entry.get("action"), entry.get("errnoRet"))
        alternatives = [Rule(conditions, result) for conditions in _alternatives(entry.get("args") or ())]
        for name in entry.get("names") or ():
            if name in numbers:
                rules.setdefault(numbers[name], []).extend(alternatives)
    return rules, max(numbers.values())


def _alternatives(arguments: Sequence[Mapping[str, Any]]) -> list[tuple[Condition, ...]]:
    conditions = []
    for argument in arguments:
        operator = argument.get("op")
        index = argument["index"]
        if operator not in _OPERATORS or not 0 <= index <= 5:
            raise SeccompError(f"seccomp condition {dict(argument)} is not supported")
        conditions.append(Condition(index, operator, argument["value"], argument.get("valueTwo") or 0))
    if len({condition.index for condition in conditions}) < len(conditions):
        return [(condition,) for condition in conditions]
    return [tuple(conditions)]


_Range = tuple[int, "int | tuple[Rule, ...]"]


def _ranges(rules: Mapping[int, list[Rule]], default: int, newest: int, unsupported: int) -> list[_Range]:
    """Where each stretch of numbers with the same outcome begins, in order, beginning at 0. An outcome is a result
    or the rules that look at arguments, the default among them as a last rule without conditions."""
    ranges: list[_Range] = []

    def extend(start: int, outcome: int | tuple[Rule, ...]) -> None:
        if not ranges or ranges[-1][1] != outcome:
            ranges.append((start, outcome))

    following = 0
    for number in sorted(rules):
        if number > following:
            extend(following, default)
        extend(number, _outcome(rules[number], default))
        following = number + 1
    if newest >= following:
        extend(following, default)
        following = newest + 1
    is_error = default & 0xFFFF0000 == _ACTIONS["SCMP_ACT_ERRNO"]
    extend(following, unsupported if is_error else default)
    return ranges


def _outcome(rules: Iterable[Rule], default: int) -> int | tuple[Rule, ...]:
    reachable: list[Rule] = []
    for rule in rules:
        reachable.append(rule)
        if not rule.conditions:
            break
    else:
        reachable.append(Rule((), default))
    results = {rule.result for rule in reachable}
    return results.pop() if len(results) == 1 else tuple(reachable)


def _tree(program: _Program, ranges: Sequence[_Range], prefix: str) -> None:
    """Find the range of the number in the accumulator and act on it."""
    if len(ranges) > 1:
        middle = len(ranges) // 2
        upper = f"{prefix}>={ranges[middle][0]}"
        program.jump_if(_JUMP_AT_LEAST, ranges[middle][0], upper)
        _tree(program, ranges[:middle], prefix)
        program.label(upper)
        _tree(program, ranges[middle:], prefix)
        return
    start, outcome = ranges[0]
    if isinstance(outcome, int):
        program.add(_RETURN, outcome)
        return
    for position, rule in enumerate(outcome):
        following = f"{prefix}={start}+{position}"
        for step, condition in enumerate(rule.conditions):
            _compare(program, condition, following, f"{following}/{step}")
        program.add(_RETURN, rule.result)
        program.label(following)


def _compare(program: _Program, condition: Condition, otherwise: str, here: str) -> None:
    """Go on when the condition holds, else jump to `otherwise`. Arguments are loaded as two words."""
    low_offset = _ARGUMENTS_OFFSET + 8 * condition.index
    high, low = condition.value >> 32 & 0xFFFFFFFF, condition.value & 0xFFFFFFFF
    operator = condition.operator.removeprefix("SCMP_CMP_")
    program.add(_LOAD, low_offset + 4)
    if operator == "MASKED_EQ":
        program.add(_AND, high)
        program.jump_unless(_JUMP_EQUAL, condition.other >> 32 & 0xFFFFFFFF, otherwise)
        program.add(_LOAD, low_offset)
        program.add(_AND, low)
        program.jump_unless(_JUMP_EQUAL, condition.other & 0xFFFFFFFF, otherwise)
    elif operator == "EQ":
        program.jump_unless(_JUMP_EQUAL, high, otherwise)
        program.add(_LOAD, low_offset)
        program.jump_unless(_JUMP_EQUAL, low, otherwise)
    elif operator == "NE":
        program.jump_unless(_JUMP_EQUAL, high, here)
        program.add(_LOAD, low_offset)
        program.jump_if(_JUMP_EQUAL, low, otherwise)
    elif operator in ("GT", "GE"):
        program.jump_if(_JUMP_GREATER, high, here)
        program.jump_unless(_JUMP_EQUAL, high, otherwise)
        program.add(_LOAD, low_offset)
        program.jump_unless(_JUMP_GREATER if operator == "GT" else _JUMP_AT_LEAST, low, otherwise)
    else:  # LT and LE: the negations of GE and GT
        program.jump_if(_JUMP_GREATER, high, otherwise)
        program.jump_unless(_JUMP_EQUAL, high, here)
        program.add(_LOAD, low_offset)
        program.jump_if(_JUMP_AT_LEAST if operator == "LT" else _JUMP_GREATER, low, otherwise)
    program.label(here)


class _Program:
    """Instructions with labels. A conditional jump reaches 255 instructions, so each only skips an unconditional one,
    which reaches all."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, int, int | str]] = []
        self._labels: dict[str, int] = {}

    def add(self, opcode: int, value: int) -> None:
        self._code.append((opcode, 0, 0, value))

    def jump_if(self, opcode: int, value: int, label: str) -> None:
        self._code += [(opcode, 0, 1, value), (_JUMP, 0, 0, label)]

    def jump_unless(self, opcode: int, value: int, label: str) -> None:
        self._code += [(opcode, 1, 0, value), (_JUMP, 0, 0, label)]

    def label(self, name: str) -> None:
        self._labels[name] = len(self._code)

    def assemble(self) -> bytes:
        if len(self._code) > _MAX_INSTRUCTIONS:
            raise SeccompError(f"the seccomp profile needs {len(self._code)} instructions, the kernel takes 4096")
        words = []
        for position, (opcode, if_true, if_false, value) in enumerate(self._code):
            target = self._labels[value] - position - 1 if isinstance(value, str) else value
            words.append(struct.pack("=HBBI", opcode, if_true, if_false, target))
        return b"".join(words)
