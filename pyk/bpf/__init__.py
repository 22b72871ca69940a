"""Small programs in the kernel: eBPF, without a compiler.

A program is written with `Assembler` (an instruction a call), finds what it needs of the kernel's own structures
through `KernelTypes`, shares `Map`s with this process, and is checked and taken by the kernel in `load`. Where it runs
is the matter of `attach`, for the kernel's tracepoints, and of `pyk.netlink.run_on_received`, for packets. Maps and
programs live as long as a descriptor or a hook holds them.

Source: bpf(2), bpf-helpers(7), Documentation/bpf of the kernel.
"""

from __future__ import annotations

from pyk.bpf.assembler import Assembler, Register
from pyk.bpf.kernel import HASH, LRU_HASH, RAW_TRACEPOINT, BpfFailure, Map, attach, load
from pyk.bpf.types import KernelTypes

__all__ = [
    "HASH",
    "LRU_HASH",
    "RAW_TRACEPOINT",
    "Assembler",
    "BpfFailure",
    "KernelTypes",
    "Map",
    "Register",
    "attach",
    "load",
]
