"""Games: whose turn it is, what each player minimises, and who is averaged."""
