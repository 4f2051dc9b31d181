"""A small classifier of ours at /v1/moderations, and the proofs of what it computes.

model    its weights and its arithmetic, which need no library
onnx     the same model as a file that ezkl takes
circuit  keys made once into a folder, with the circuit as gateways pin it (extra [zk])
worker   the process in which ezkl runs; prover  the node's side of it
"""
