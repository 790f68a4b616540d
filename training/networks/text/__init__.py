"""Networks that generate and discriminate sequences of tokens."""
