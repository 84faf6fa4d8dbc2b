"""Grading photographs with a trained network: reading, answering, warning, drawing."""
