"""Tries a training without writing a run: shapes, memory, speed and the time that it will take."""
