"""Workarounds for the host (BentoML, circus, uvicorn), one fault per file."""
