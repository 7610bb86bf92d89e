"""The connected side: checkpoint to ONNX graph, wheels and vocabulary to one signed archive."""
