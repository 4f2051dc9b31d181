"""What we know of nodes: who they are, what their evidence showed, how they behave. I/O, thin over the pure half."""
