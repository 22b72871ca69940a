"""Volumes of pods on this node: their directories, their content, the host mounts that carry them."""
