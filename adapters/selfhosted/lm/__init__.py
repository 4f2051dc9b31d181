"""A language model of under a million parameters, trained by `tools/train_lm` and run by NumPy alone."""
