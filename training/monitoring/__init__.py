"""Monitoring of a run: progress, metrics, convergence and alarms."""
