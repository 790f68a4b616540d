"""Load generators and run them. No HTTP and no BentoML in here."""

import os

# Else ONNX Runtime tells its makers the names of models, and on what they run. That is for each
# operator to switch on, not off. Read when onnxruntime is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
