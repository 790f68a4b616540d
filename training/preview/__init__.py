"""Sample sheets and previews: many images in one image."""
