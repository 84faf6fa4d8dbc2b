"""Grade diabetic retinopathy from fundus photographs, at the speed of the loader."""

__version__ = "0.1.0"
