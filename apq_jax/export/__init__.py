"""A finished run for other tools: ONNX, and the input files of simulators."""
