"""Content Credentials (C2PA): signed statements about the origin of an image, inside its file."""
