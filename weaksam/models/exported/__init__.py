"""Networks of fixed size without ragged lists, for ONNX and torch.export: tensors in, padded tensors out."""
