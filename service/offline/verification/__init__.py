"""What a file states about its origin, and what of it can be proven."""
