"""TODO-ROOM service/host."""
