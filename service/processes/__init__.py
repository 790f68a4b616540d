"""What the worker processes of one server share, and how they agree."""
