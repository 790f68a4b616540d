"""TODO-ROOM service/api/protocols."""
