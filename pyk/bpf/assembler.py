"""eBPF instructions: eight bytes each, written one by one, with names for the places that are jumped to.

    code = Assembler()
    code.load(R0, R1, 0, 4)                   # r0 = *(u32 *)(r1 + 0), the packet's length
    code.jump_if(R0, ">", 60, "long")
    code.move(R0, 0)
    code.label("long")
    code.exit()

There are ten registers: r0 is what a call and the program return, r1 to r5 are arguments and lost in every call, r6 to
r9 stay, r10 is the end of the stack of 512 bytes. Pure. Source: RFC 9669.
"""

from __future__ import annotations

import struct
from enum import IntEnum


class Register(IntEnum):
    R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = range(11)


_SIZES = {1: 0x10, 2: 0x08, 4: 0x00, 8: 0x18}
_CONDITIONS = {"==": 0x10, ">": 0x20, ">=": 0x30, "&": 0x40, "!=": 0x50, "<": 0xA0, "<=": 0xB0}
_OPERATIONS = {"+": 0x00, "-": 0x10, "|": 0x40, "&": 0x50, "<<": 0x60, ">>": 0x70, "=": 0xB0}
_LDX, _ST, _STX, _ALU64, _JMP = 0x61, 0x62, 0x63, 0x07, 0x05  # of memory, with a register or a number
_FROM_REGISTER = 0x08
_CALL, _EXIT, _LOAD_WIDE, _ATOMIC_ADD = 0x85, 0x95, 0x18, 0xDB
_MAP_BY_DESCRIPTOR, _KERNEL_FUNCTION = 1, 2


class Assembler:
    """Collects instructions."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, int, int, int]] = []  # opcode, destination, source, offset, number
        self._labels: dict[str, int] = {}
        self._jumps: list[tuple[int, str]] = []

    def load(self, into: Register, base: Register, offset: int, size: int) -> None:
        """Read `size` bytes at base + offset."""
        self._add(_LDX | _SIZES[size], into, base, offset)

    def store(self, base: Register, offset: int, what: Register | int, size: int) -> None:
        """Write a register's low bytes, or a number, to base + offset."""
        if isinstance(what, Register):
            self._add(_STX | _SIZES[size], base, what, offset)
        else:
            self._add(_ST | _SIZES[size], base, 0, offset, what)

    def compute(self, into: Register, operation: str, operand: Register | int) -> None:
        """`into` = `into` operation operand, in 64 bits."""
        if isinstance(operand, Register):
            self._add(_ALU64 | _FROM_REGISTER | _OPERATIONS[operation], into, operand)
        else:
            self._add(_ALU64 | _OPERATIONS[operation], into, 0, 0, operand)

    def move(self, into: Register, what: Register | int) -> None:
        self.compute(into, "=", what)

    def count(self, base: Register, offset: int, by: Register) -> None:
        """Add to the 8 bytes at base + offset at once, whoever else counts there."""
        self._add(_ATOMIC_ADD, base, by, offset)

    def label(self, name: str) -> None:
        """Here is the place of that name."""
        if name in self._labels:
            raise ValueError(f"two places are named {name}")
        self._labels[name] = len(self._code)

    def jump(self, to: str) -> None:
        self._jumps.append((len(self._code), to))
        self._add(_JMP)

    def jump_if(self, left: Register, condition: str, right: Register | int, to: str) -> None:
        """Compare without sign, in 64 bits; `&` is true when both have a bit in common."""
        self._jumps.append((len(self._code), to))
        if isinstance(right, Register):
            self._add(_JMP | _FROM_REGISTER | _CONDITIONS[condition], left, right)
        else:
            self._add(_JMP | _CONDITIONS[condition], left, 0, 0, right)

    def load_map(self, into: Register, descriptor: int) -> None:
        """The map behind the descriptor, as an argument of a helper."""
        self._add(_LOAD_WIDE, into, _MAP_BY_DESCRIPTOR, 0, descriptor)
        self._add(0)

    def call(self, helper: int) -> None:
        """Call a helper by its number."""
        self._add(_CALL, 0, 0, 0, helper)

    def call_kernel(self, function: int) -> None:
        """Call a function that the kernel offers to programs, by its number among the kernel's types."""
        self._add(_CALL, 0, _KERNEL_FUNCTION, 0, function)

    def exit(self) -> None:
        self._add(_EXIT)

    def assemble(self) -> bytes:
        """The program. Raises ValueError for a jump to a place that there is not."""
        code = list(self._code)
        for at, name in self._jumps:
            if name not in self._labels:
                raise ValueError(f"no place is named {name}")
            opcode, into, source, _, number = code[at]
            code[at] = (opcode, into, source, self._labels[name] - at - 1, number)
        return b"".join(
            struct.pack("=BBhI", opcode, into | source << 4, offset, number & 0xFFFFFFFF)
            for opcode, into, source, offset, number in code
        )

    def _add(self, opcode: int, into: int = 0, source: int = 0, offset: int = 0, number: int = 0) -> None:
        self._code.append((opcode, into, source, offset, number))
