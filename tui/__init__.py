"""The terminal UI: a window onto results. It decides nothing; verdicts come from the gateway's verifier functions."""
