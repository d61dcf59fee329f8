"""Reads a network from an ONNX file as a JAX function."""
