"""TODO-ROOM training/evaluation/image_to_image."""
