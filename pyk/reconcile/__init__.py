"""The loop: clock, work queue, controller runner. Every controller, the scheduler and the agent are built on it."""
