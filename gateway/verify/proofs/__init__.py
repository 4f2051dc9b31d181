"""Evidence about the answer itself, rather than about the machine that made it."""
