"""Measurements: `python -m benchmarks` (or `make bench`) takes them all; each module is also a script of its own."""
