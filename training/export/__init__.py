"""From a generator to a model folder: graphs, ONNX export with its checks, manifest and card."""
