"""Node-pressure eviction: signals, thresholds, conditions, whom to end, and limits of local storage."""
