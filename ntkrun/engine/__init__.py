"""What one stack of networks does: tensors in, numbers out. Knows no sweep and no results directory."""
