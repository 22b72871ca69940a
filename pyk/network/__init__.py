"""What the pod network's data plane and those who look at it share: names, and the meaning of policies."""
