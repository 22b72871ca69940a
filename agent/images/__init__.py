"""Images on this node: references, the content-addressed store, the reserved images made from the host."""
