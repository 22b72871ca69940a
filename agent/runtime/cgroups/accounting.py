"""What a group has used in detail, for metrics: the kernel's files of both versions, under the same names.

    cpu_user_ns cpu_system_ns                          since the group was made
    cpu_periods cpu_throttled_periods cpu_throttled_ns of its quota
    memory_rss memory_cache memory_mapped memory_swap  bytes now; memory_peak the most there ever was
    memory_failures                                    how often the limit was met
    page_faults major_page_faults
    io_reads io_writes io_read_bytes io_write_bytes    over all devices, where the io controller is there

A name is absent where the kernel does not tell. Source: Documentation/admin-guide/cgroup-v1 and cgroup-v2.
"""

from __future__ import annotations

from agent.runtime.cgroups import flat_keyed, read

_TICK_NS = 10_000_000
"""cpuacct.stat counts in USER_HZ, which is 100 on every machine that we run on."""


def v1_details(cpu: str, cpuacct: str, memory: str) -> dict[str, int]:
    """Of the group's directories in these hierarchies."""
    ticks, stat = flat_keyed(read(f"{cpuacct}/cpuacct.stat", "")), flat_keyed(read(f"{cpu}/cpu.stat", ""))
    of_memory = flat_keyed(read(f"{memory}/memory.stat", ""))
    found = {
        "cpu_user_ns": ticks.get("user", 0) * _TICK_NS,
        "cpu_system_ns": ticks.get("system", 0) * _TICK_NS,
        "cpu_periods": stat.get("nr_periods", 0),
        "cpu_throttled_periods": stat.get("nr_throttled", 0),
        "cpu_throttled_ns": stat.get("throttled_time", 0),
    }
    names = {"rss": "memory_rss", "cache": "memory_cache", "mapped_file": "memory_mapped", "swap": "memory_swap",
             "pgfault": "page_faults", "pgmajfault": "major_page_faults"}  # fmt: skip
    found |= {name: of_memory[f"total_{key}"] for key, name in names.items() if f"total_{key}" in of_memory}
    for file, name in (("memory.max_usage_in_bytes", "memory_peak"), ("memory.failcnt", "memory_failures")):
        if text := read(f"{memory}/{file}", ""):
            found[name] = int(text)
    return found


def v2_details(group: str) -> dict[str, int]:
    """Of the group's directory."""
    stat, of_memory = flat_keyed(read(f"{group}/cpu.stat", "")), flat_keyed(read(f"{group}/memory.stat", ""))
    found = {
        "cpu_user_ns": stat.get("user_usec", 0) * 1000,
        "cpu_system_ns": stat.get("system_usec", 0) * 1000,
        "cpu_periods": stat.get("nr_periods", 0),
        "cpu_throttled_periods": stat.get("nr_throttled", 0),
        "cpu_throttled_ns": stat.get("throttled_usec", 0) * 1000,
    }
    names = {"anon": "memory_rss", "file": "memory_cache", "file_mapped": "memory_mapped", "pgfault": "page_faults",
             "pgmajfault": "major_page_faults"}  # fmt: skip
    found |= {name: of_memory[key] for key, name in names.items() if key in of_memory}
    for file, name in (("memory.swap.current", "memory_swap"), ("memory.peak", "memory_peak")):
        if text := read(f"{group}/{file}", ""):
            found[name] = int(text)
    if events := read(f"{group}/memory.events", ""):
        found["memory_failures"] = flat_keyed(events).get("max", 0)
    return found | io_totals(read(f"{group}/io.stat", ""))


def io_totals(text: str) -> dict[str, int]:
    """The sums over the devices of an `io.stat`; nothing where there is none."""
    names = {"rbytes": "io_read_bytes", "wbytes": "io_write_bytes", "rios": "io_reads", "wios": "io_writes"}
    found: dict[str, int] = {}
    for line in text.splitlines():
        for pair in line.split()[1:]:
            key, _, value = pair.partition("=")
            if key in names and value.isdigit():
                found[names[key]] = found.get(names[key], 0) + int(value)
    return found
