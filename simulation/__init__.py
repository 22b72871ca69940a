"""A whole cluster in one process, in virtual time, from a seed: `python -m simulation`, docs/simulation.md."""
