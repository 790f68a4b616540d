"""Sound data sets: decoding, fixed length, batches, and the report of `ganymede data`."""
