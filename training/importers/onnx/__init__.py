"""TODO-ROOM training/importers/onnx."""
