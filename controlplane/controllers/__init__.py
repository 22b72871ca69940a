"""The control loops: one file a loop, each a pure decision and a thin shell that observes and applies."""
