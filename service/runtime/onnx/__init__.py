"""TODO-ROOM service/runtime/onnx."""
