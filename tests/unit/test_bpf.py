"""Programs for the kernel, encoded, and what it tells of itself, read."""

from __future__ import annotations

import struct

import pytest

from pyk.bpf import Assembler, KernelTypes, Register

R0, R1, R6, R10 = Register.R0, Register.R1, Register.R6, Register.R10


def test_instructions_are_encoded_as_the_rfc_says() -> None:
    code = Assembler()
    code.move(R6, R1)
    code.load(R0, R6, 16, 4)
    code.store(R10, -8, R0, 8)
    code.store(R10, -16, -1, 4)
    code.compute(R0, "&", 0xFF)
    code.call(1)
    code.exit()
    expected = "bf16000000000000 6160100000000000 7b0af8ff00000000 620af0ffffffffff 57000000ff000000 8500000001000000"
    assert code.assemble() == bytes.fromhex(expected.replace(" ", "") + "9500000000000000")


def test_jumps_lead_forward_to_their_labels_over_maps_of_two_words() -> None:
    code = Assembler()
    code.jump_if(R0, "==", 7, "end")
    code.load_map(R1, 5)
    code.jump("end")
    code.move(R0, 0)
    code.label("end")
    code.exit()
    offsets = [each[2] for each in struct.iter_unpack("=BBhi", code.assemble())]
    assert offsets == [4, 0, 0, 1, 0, 0]


def test_a_jump_to_nowhere_and_a_second_place_of_one_name_are_refused() -> None:
    code = Assembler()
    code.jump("nowhere")
    with pytest.raises(ValueError, match="no place is named nowhere"):
        code.assemble()
    code.label("here")
    with pytest.raises(ValueError, match="two places are named here"):
        code.label("here")


def test_functions_and_members_are_found_among_the_kernels_types() -> None:
    strings = b"\0int\0first\0second\0pair\0work\0"

    def name(text: bytes) -> int:
        return strings.index(b"\0" + text + b"\0") + 1

    number = struct.pack("=IIII", name(b"int"), 1 << 24, 4, 32)
    members = struct.pack("=IIIIII", name(b"first"), 1, 0, name(b"second"), 1, 32)
    pair = struct.pack("=III", name(b"pair"), 4 << 24 | 2, 8) + members
    prototype = struct.pack("=IIIII", 0, 13 << 24 | 1, 0, 0, 1)
    work = struct.pack("=III", name(b"work"), 12 << 24, 3)
    types = number + pair + prototype + work
    head = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    found = KernelTypes(["work"], ["pair"], head + types + strings)
    assert found.function("work") == 4
    assert (found.offset("pair", "first"), found.offset("pair", "second"), found.size("pair")) == (0, 4, 8)
    with pytest.raises(KeyError):
        KernelTypes(["play"], [], head + types + strings).function("play")
