"""TODO-ROOM service/offline/engines."""
