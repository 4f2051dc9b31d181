"""OpenGradient: its registry, asked of several JSON-RPC endpoints, and what is carried from there to the verifier."""
