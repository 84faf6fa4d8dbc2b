"""What only a CUDA machine can tell, measured and judged: ``scripts/gpu_check.py``."""
