"""The queue of jobs in a running service."""
