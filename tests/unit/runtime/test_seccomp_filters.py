from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.runtime.seccomp import SeccompError, compile_filter, filter_flags, syscall_numbers
from agent.runtime.seccomp_default import runtime_default
from agent.runtime.spec import CAPABILITIES, DEFAULT_CAPABILITIES
from tests.unit.runtime.bpf_machine import AARCH64, I386, X86_64, run

ALLOW, KILL, KILL_PROCESS, LOG, TRAP = 0x7FFF0000, 0, 0x80000000, 0x7FFC0000, 0x30000
EPERM, ENOSYS = 0x50001, 0x50000 | 38
NUMBERS = syscall_numbers(1)
COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "NE": operator.ne,
    "LT": operator.lt,
    "LE": operator.le,
    "EQ": operator.eq,
    "GE": operator.ge,
    "GT": operator.gt,
}


def profile(*entries: dict[str, Any], default: str = "SCMP_ACT_ERRNO", **more: Any) -> dict[str, Any]:
    return {"defaultAction": default, "architectures": ["SCMP_ARCH_X86_64"], "syscalls": list(entries), **more}


def allow(*names: str, **more: Any) -> dict[str, Any]:
    return {"names": list(names), "action": "SCMP_ACT_ALLOW", **more}


def condition(op: str, value: int, other: int = 0, index: int = 0) -> dict[str, Any]:
    return {"index": index, "value": value, "valueTwo": other, "op": f"SCMP_CMP_{op}"}


def compiled(*entries: dict[str, Any], **more: Any) -> bytes:
    return compile_filter(profile(*entries, **more), "x86_64")


def test_numbers_are_the_kernel_s() -> None:
    assert [NUMBERS[name] for name in ("read", "clone3", "openat2", "mseal")] == [0, 435, 437, 462]
    assert [syscall_numbers(2)[name] for name in ("exit", "socketcall", "clone3")] == [1, 102, 435]
    assert [syscall_numbers(3)[name] for name in ("openat", "mount", "mmap", "fstat")] == [56, 40, 222, 80]
    assert "open" not in syscall_numbers(3)


def test_every_number_gets_its_own_outcome() -> None:
    allowed = sorted(NUMBERS)[::3]
    program = compiled(allow(*allowed))
    newest = max(NUMBERS.values())
    for number in range(newest + 1):
        name = next((name for name, value in NUMBERS.items() if value == number), None)
        assert run(program, number) == (ALLOW if name in allowed else EPERM), (number, name)


def test_calls_newer_than_any_known_are_not_implemented() -> None:
    newest = max(NUMBERS.values())
    assert run(compiled(allow("read")), newest + 1) == ENOSYS
    assert run(compiled(allow("read")), newest + 1000) == ENOSYS
    assert run(compiled(allow("read"), default="SCMP_ACT_KILL"), newest + 1) == KILL
    assert run(compiled(default="SCMP_ACT_ALLOW"), newest + 1) == ALLOW


def test_other_architectures_and_x32_are_not_implemented() -> None:
    program = compiled(allow("read"))
    assert run(program, 0, architecture=X86_64) == ALLOW
    assert run(program, 3, architecture=I386) == ENOSYS
    assert run(program, 0, architecture=AARCH64) == ENOSYS
    assert run(program, 0x40000000) == ENOSYS


def test_listed_sub_architectures_have_their_own_numbers() -> None:
    document = profile(allow("exit"), architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"])
    program = compile_filter(document, "x86_64")
    assert (run(program, NUMBERS["exit"]), run(program, 1)) == (ALLOW, EPERM)
    assert (run(program, 1, architecture=I386), run(program, 60, architecture=I386)) == (ALLOW, EPERM)
    arm = compile_filter(document, "aarch64")
    assert run(arm, syscall_numbers(3)["exit"], architecture=AARCH64) == ALLOW
    assert run(arm, 1, architecture=I386) == ENOSYS


@pytest.mark.parametrize(
    ("action", "errno", "expected"),
    [
        ("SCMP_ACT_ALLOW", None, ALLOW),
        ("SCMP_ACT_KILL", None, KILL),
        ("SCMP_ACT_KILL_PROCESS", None, KILL_PROCESS),
        ("SCMP_ACT_LOG", None, LOG),
        ("SCMP_ACT_TRAP", None, TRAP),
        ("SCMP_ACT_ERRNO", None, EPERM),
        ("SCMP_ACT_ERRNO", 13, 0x5000D),
    ],
)
def test_actions(action: str, errno: int | None, expected: int) -> None:
    assert run(compiled({"names": ["read"], "action": action, "errnoRet": errno}), 0) == expected


_words = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 1, 2**32 - 1, 2**32, 2**32 + 1, 2**63, 2**64 - 1]))


@given(op=st.sampled_from(sorted(COMPARISONS)), value=_words, argument=_words, index=st.integers(0, 5))
@settings(max_examples=400)
def test_arguments_are_compared_as_64_bit_numbers(op: str, value: int, argument: int, index: int) -> None:
    program = compiled(allow("read", args=[condition(op, value, index=index)]))
    arguments = [0] * index + [argument]
    assert run(program, 0, arguments) == (ALLOW if COMPARISONS[op](argument, value) else EPERM)


@given(mask=_words, wanted=_words, argument=_words)
def test_masked_comparison(mask: int, wanted: int, argument: int) -> None:
    program = compiled(allow("read", args=[condition("MASKED_EQ", mask, wanted & mask)]))
    assert run(program, 0, [argument]) == (ALLOW if argument & mask == wanted & mask else EPERM)


def test_conditions_on_different_arguments_all_have_to_hold() -> None:
    program = compiled(allow("read", args=[condition("EQ", 1), condition("EQ", 2, index=1)]))
    assert [run(program, 0, pair) for pair in ([1, 2], [1, 3], [0, 2])] == [ALLOW, EPERM, EPERM]


def test_conditions_on_one_argument_are_alternatives() -> None:
    program = compiled(allow("read", args=[condition("EQ", 1), condition("EQ", 2)]))
    assert [run(program, 0, [value]) for value in (1, 2, 3)] == [ALLOW, ALLOW, EPERM]


def test_the_first_entry_that_matches_decides() -> None:
    refused = {"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5, "args": [condition("EQ", 7)]}
    program = compiled(refused, allow("read"))
    assert [run(program, 0, [value]) for value in (7, 8)] == [0x50005, ALLOW]


def test_unknown_names_are_passed_over() -> None:
    assert run(compiled(allow("no_such_call", "read")), 0) == ALLOW


@pytest.mark.parametrize(
    "document",
    [
        profile(default="SCMP_ACT_NOTIFY"),
        profile(default="nonsense"),
        profile(allow("read", args=[condition("LIKE", 1)])),
        profile(allow("read", args=[condition("EQ", 1, index=6)])),
        {"syscalls": []},
    ],
)
def test_what_cannot_be_compiled_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(SeccompError):
        compile_filter(document, "x86_64")


def test_flags() -> None:
    assert filter_flags({"flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]}) == 6
    assert filter_flags({"flags": []}) == 0
    with pytest.raises(SeccompError, match="unknown seccomp flag X"):
        filter_flags({"flags": ["X"]})


def test_a_filter_does_not_slow_speculation_down_unless_its_profile_says_so() -> None:
    assert filter_flags({}) == 4


class TestRuntimeDefault:
    program = compile_filter(runtime_default(DEFAULT_CAPABILITIES), "x86_64")

    @pytest.mark.parametrize("name", ["read", "openat", "execve", "chroot", "ptrace", "futex_waitv", "rseq", "mknod"])
    def test_ordinary_calls_are_allowed(self, name: str) -> None:
        assert run(self.program, NUMBERS[name]) == ALLOW

    @pytest.mark.parametrize(
        "name",
        ["mount", "umount2", "setns", "unshare", "bpf", "kexec_load", "add_key", "keyctl", "reboot", "init_module"],
    )
    def test_dangerous_calls_are_refused(self, name: str) -> None:
        assert run(self.program, NUMBERS[name]) == EPERM

    def test_io_uring_and_userfaultfd_are_refused(self) -> None:
        for name in ("io_uring_setup", "io_uring_enter", "userfaultfd", "open_by_handle_at"):
            assert run(self.program, NUMBERS[name]) == EPERM

    def test_clone_makes_processes_and_threads_but_no_namespaces(self) -> None:
        clone = NUMBERS["clone"]
        assert run(self.program, clone, [17]) == ALLOW
        assert run(self.program, clone, [0x3D0F00]) == ALLOW
        for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
            assert run(self.program, clone, [17 | flag]) == EPERM

    def test_clone3_is_not_implemented(self) -> None:
        assert run(self.program, NUMBERS["clone3"]) == ENOSYS

    def test_sockets_but_not_of_virtual_machines(self) -> None:
        assert run(self.program, NUMBERS["socket"], [2]) == ALLOW
        assert run(self.program, NUMBERS["socket"], [40]) == EPERM

    def test_personality_only_for_known_values(self) -> None:
        results = [run(self.program, NUMBERS["personality"], [value]) for value in (0, 8, 0xFFFFFFFF, 0x40000)]
        assert results == [ALLOW, ALLOW, ALLOW, EPERM]

    def test_32_bit_programs_run(self) -> None:
        assert run(self.program, syscall_numbers(2)["socketcall"], architecture=I386) == ALLOW
        assert run(self.program, syscall_numbers(2)["mount"], architecture=I386) == EPERM

    def test_capabilities_open_what_they_are_for(self) -> None:
        program = compile_filter(runtime_default(CAPABILITIES), "x86_64")
        for name in ("mount", "setns", "bpf", "clone3", "reboot", "init_module", "syslog", "settimeofday"):
            assert run(program, NUMBERS[name]) == ALLOW
        assert run(program, NUMBERS["clone"], [0x20000000]) == ALLOW
        assert run(program, NUMBERS["kexec_load"]) == EPERM

    def test_every_listed_name_is_a_system_call(self) -> None:
        known = {*syscall_numbers(1), *syscall_numbers(2), *syscall_numbers(3)}
        entries = runtime_default(CAPABILITIES)["syscalls"]
        unknown = {name for entry in entries for name in entry["names"]} - known
        assert unknown <= {"getsid", "fstatat64", "recv", "send", "utimensat_time64", "uretprobe"}
