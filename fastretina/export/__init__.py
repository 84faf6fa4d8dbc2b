"""The command ``fastretina export``: a run's network as an ONNX file."""
