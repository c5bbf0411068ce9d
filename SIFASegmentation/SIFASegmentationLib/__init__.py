"""Use a SIFA model: read volumes, segment them slice by slice, score the result.

This library knows nothing of torch, Qt or Slicer; it needs numpy, scipy, SimpleITK, onnx, onnxruntime and pydantic.
"""

__version__ = "0.1.0"
