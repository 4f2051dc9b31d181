"""Running proof systems: native code and seconds of arithmetic, in processes that may die without anyone noticing.

verifier   the pool: `await Verifier(...).verify(circuit, statement)`, never a blocked event loop
process    one worker process, seen from the gateway: started, fed, timed, killed, cleaned up after
worker     the process itself: limits first, then one job after another
systems    what it runs: ezkl, and Groth16 over BN254
jobs       the messages between the two
circuits   pinned circuits, read from an operator's directory
"""
