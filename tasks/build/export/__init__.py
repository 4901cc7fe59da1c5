"""From a trained model to ONNX, TorchScript and `.pt2`, and the proof that they act as the model does.

May import `training`.
"""
