"""The Verifier (RFC 9334): evidence in, a list of checks out. No socket, no clock, no file."""
