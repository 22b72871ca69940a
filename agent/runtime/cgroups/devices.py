"""Which device nodes a group may open: OCI device rules as v1's files and as v2's eBPF program.

Rules are read in order and the last that matches decides, as in the OCI runtime specification. v1 keeps a default
(deny, after `a` is written to devices.deny) and exceptions; v2 has no file but asks a program attached to the
group about each access (Documentation/admin-guide/cgroup-v2, "Device controller").
"""

from __future__ import annotations

import ctypes
import os
import struct

from agent.runtime import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    Rule = dict[str, Any]

_BPF_PROG_LOAD, _BPF_PROG_ATTACH = 5, 8
_BPF_PROG_TYPE_CGROUP_DEVICE = 15
_BPF_CGROUP_DEVICE = 6
_BPF_F_ALLOW_MULTI = 2
_TYPES = {"b": 1, "c": 2}  # BPF_DEVCG_DEV_*
_ACCESS = {"m": 1, "r": 2, "w": 4}  # BPF_DEVCG_ACC_*
_ANY = -1


def v1_writes(rules: Sequence[Rule]) -> Iterator[tuple[str, str]]:
    """The (file, value) writes that put rules into force in a v1 group."""
    for rule in rules:
        kind = rule.get("type") or "a"
        file = "devices.allow" if rule["allow"] else "devices.deny"
        if kind == "a" and _number(rule, "major") == _ANY and _number(rule, "minor") == _ANY:
            yield file, "a"
            continue
        major, minor = ("*" if value == _ANY else str(value) for value in _numbers(rule))
        for letter in "bc" if kind == "a" else kind:
            yield file, f"{letter} {major}:{minor} {rule.get('access') or 'rwm'}"


def attach_v2(directory: str, rules: Sequence[Rule]) -> None:
    """Put rules into force in a v2 group, on top of what its ancestors forbid.

    Raises:
        OSError: the kernel has no device programs or refuses this one.
    """
    code = v2_program(rules)
    instructions = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack(
        "=IIQQ56x",
        _BPF_PROG_TYPE_CGROUP_DEVICE,
        len(code) // 8,
        ctypes.addressof(instructions),
        ctypes.addressof(licence),
    )
    program = syscalls.bpf(_BPF_PROG_LOAD, attributes)
    group = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syscalls.bpf(_BPF_PROG_ATTACH, struct.pack("=IIII", group, program, _BPF_CGROUP_DEVICE, _BPF_F_ALLOW_MULTI))
    finally:
        os.close(group)
        os.close(program)


def v2_program(rules: Sequence[Rule]) -> bytes:
    """The eBPF program: it loads type, access and numbers of the device, compares them with the rules from the last to
    the first, and returns 1 (allow) or 0 for the first that covers them; nothing covers: 0."""
    code = [
        _instruction(0x61, 2, 1, 0, 0),  # r2 = context.access_type: type in the low half, access in the high
        _instruction(0xBC, 3, 2, 0, 0),  # w3 = w2
        _instruction(0x54, 2, 0, 0, 0xFFFF),  # w2 &= 0xffff
        _instruction(0x74, 3, 0, 0, 16),  # w3 >>= 16
        _instruction(0x61, 4, 1, 4, 0),  # r4 = context.major
        _instruction(0x61, 5, 1, 8, 0),  # r5 = context.minor
    ]
    for rule in reversed(rules):
        checks: list[tuple[int, int]] = []  # (register, value it must have)
        if (kind := rule.get("type") or "a") != "a":
            checks.append((2, _TYPES[kind]))
        access = sum(_ACCESS[letter] for letter in rule.get("access") or "rwm")
        body = []
        if access != 7:
            # An allowing rule must cover every access asked for; a denying one need only touch one of them.
            body += [_instruction(0xBC, 1, 3, 0, 0), _instruction(0x54, 1, 0, 0, access)]  # w1 = w3 & access
        checks += [
            (register, number) for register, number in zip((4, 5), _numbers(rule), strict=True) if number != _ANY
        ]
        tail = [_instruction(0xB4, 0, 0, 0, int(bool(rule["allow"]))), _instruction(0x95, 0, 0, 0, 0)]
        block: list[tuple[int, int, int, int]] = []  # conditional jumps as (opcode, dst, src, immediate)
        if access != 7:
            block.append((0x5E, 1, 3, 0) if rule["allow"] else (0x16, 1, 0, 0))  # w1 != w3 / w1 == 0: next rule
        block += [(0x56, register, 0, value) for register, value in checks]  # register != value: next rule
        for position, (opcode, destination, source, immediate) in enumerate(block):
            distance = len(block) - position - 1 + len(tail)
            body.append(_instruction(opcode, destination, source, distance, immediate))
        code += body + tail
        if not block:  # it matches everything; the kernel takes no code that nothing reaches
            break
    else:
        code += [_instruction(0xB4, 0, 0, 0, 0), _instruction(0x95, 0, 0, 0, 0)]
    return b"".join(code)


def _instruction(opcode: int, destination: int, source: int, offset: int, immediate: int) -> bytes:
    return struct.pack("=BBhi", opcode, source << 4 | destination, offset, immediate)


def _number(rule: Rule, key: str) -> int:
    value = rule.get(key)
    return _ANY if value is None else int(value)


def _numbers(rule: Rule) -> tuple[int, int]:
    return _number(rule, "major"), _number(rule, "minor")
