"""Statistics of evaluations: intervals, pass@k, majority votes, calibration."""
