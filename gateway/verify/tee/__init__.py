"""Verifiers of raw TEE evidence: bytes, collateral, roots and a time in; a list of checks and one claims record out.

Nothing here fetches, reads a clock or knows a default root that a caller did not pass. Every family has one module and
one function; each walks its vendor's list in the vendor's order and stops at the first check that does not hold, with
the rest listed as not reached. Authentic says that the signatures, chains, collateral and structure hold at `now`. It
says nothing of whether the evidence is acceptable (`rules`), nor of whom it speaks for (`bindings`).
"""
