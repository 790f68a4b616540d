"""Loads generators and runs them. Contains neither HTTP nor BentoML."""

import os

# ONNX Runtime's telemetry reports model names and hardware. It is off unless the operator enables
# it. Must be set before onnxruntime is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
