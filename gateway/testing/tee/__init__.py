"""Synthetic TEE evidence, a module a vendor: genuine in form and signature, and worth nothing."""
