"""What predictions are worth: scores, intervals, baselines, calibration, figures."""
