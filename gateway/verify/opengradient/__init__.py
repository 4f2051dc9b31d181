"""OpenGradient's evidence, judged: what its registry, its enclaves and its signatures show, and what they do not."""
