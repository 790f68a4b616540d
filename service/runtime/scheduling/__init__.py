"""TODO-ROOM service/runtime/scheduling."""
