"""HTTP in, store out: the Kubernetes API, generic over the table of kinds."""
