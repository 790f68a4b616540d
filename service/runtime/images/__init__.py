"""TODO-ROOM service/runtime/images."""
