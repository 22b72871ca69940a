"""The cluster's name server, one on each node: the cluster's own names, and others forwarded."""
