"""The scheduler: from submitted rows to batches, workers and results."""
