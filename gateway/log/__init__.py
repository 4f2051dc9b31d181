"""The transparency log's formats (C2SP tlog family, DSSE): bytes in, values or proofs out. Nothing here does I/O."""
