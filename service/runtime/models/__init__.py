"""TODO-ROOM service/runtime/models."""
