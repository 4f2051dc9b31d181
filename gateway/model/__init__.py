"""Values: what things are. Standard library and msgspec only; nothing here opens, awaits or reads a clock."""
