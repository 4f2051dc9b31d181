"""What is particular to each network: a module or package per adapter, found by entry point, never by import."""
