"""What a set of predictions is worth: intervals, baselines, calibration, tests."""
