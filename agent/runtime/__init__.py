"""Containers, made here: one file a kernel mechanism, and the spawner that puts them together."""
