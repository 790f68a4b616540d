"""Export of generators to model folders: graphs, ONNX export, manifest and model card."""
