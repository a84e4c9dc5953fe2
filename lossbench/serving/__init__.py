"""A trained replicate at work: calibrated answers, over HTTP, from the command line, as ONNX."""
