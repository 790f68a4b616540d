"""`ganymede pull`: the command, what it shows, and what it does with the files."""
