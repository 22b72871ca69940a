"""A cluster on this machine: nodes as network namespaces and control groups, components as supervised processes."""
