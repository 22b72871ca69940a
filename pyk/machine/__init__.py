"""This machine as part of a cluster of several: the control plane, an agent, and what it takes to join and to leave."""
