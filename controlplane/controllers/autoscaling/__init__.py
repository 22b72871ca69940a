"""The autoscaler: how many pods a workload should have for what its metrics say, and how fast it may get there."""
