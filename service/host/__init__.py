"""Workarounds for the host (BentoML, circus, uvicorn), one fault a file."""
