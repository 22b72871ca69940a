"""Take all measurements: `make bench`. Each part is a process of its own and prints its figures as it takes them.

Words choose parts by their names, and what begins with the first option is for them: `hollow --pods 1000`.
"""

from __future__ import annotations

import itertools
import subprocess
import sys

PARTS = (
    ("store", ["benchmarks.bench_store"]),
    ("API server, yardstick", ["benchmarks.yardstick"]),
    ("API server, SQLite", ["benchmarks.bench_api", "--store", "sqlite"]),
    ("API server, etcd", ["benchmarks.bench_api", "--store", "etcd"]),
    ("API server, protobuf", ["benchmarks.bench_protobuf"]),
    ("scheduler", ["benchmarks.bench_scheduler"]),
    ("container runtime", ["benchmarks.bench_runtime"]),
    ("DNS", ["benchmarks.bench_dns"]),
    ("ingress", ["benchmarks.bench_ingress"]),
    ("inside a container", ["benchmarks.bench_inside"]),
    ("network", ["benchmarks.bench_network"]),
    ("first connection", ["benchmarks.bench_first_connection"]),
    ("cluster", ["benchmarks.cluster"]),
    ("recovery", ["benchmarks.recovery"]),
    ("hollow nodes", ["benchmarks.hollow"]),
)


def main() -> int:
    wanted = list(itertools.takewhile(lambda word: not word.startswith("-"), sys.argv[1:]))
    options = sys.argv[1 + len(wanted) :]
    failed = []
    for name, module in PARTS:
        if wanted and not any(word in name for word in wanted):
            continue
        print(f"\n== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", *module, *options], check=False).returncode != 0:
            failed.append(name)
    if failed:
        print(f"\nnot measured to the end: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
