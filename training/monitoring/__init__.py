"""What a run reports of itself: progress, metrics, convergence, and alarms."""
