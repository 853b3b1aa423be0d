"""What infinite width predicts. Pure functions: no files, no training."""
