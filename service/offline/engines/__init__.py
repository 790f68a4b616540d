"""Engines that run the shards of a job: threads on this machine, or a Ray cluster."""
