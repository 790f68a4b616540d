"""ONNX Runtime: sessions, providers, execution plans, and the CPUs and memory they may use."""
