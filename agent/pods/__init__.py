"""The pods of this node: what to do next (pure), how each container is run, and the manager that does it."""
