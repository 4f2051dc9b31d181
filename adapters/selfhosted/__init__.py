"""The reference node, `veriroute node`: serves a small model of its own or fronts a backend, and signs what passes.

`identity` and `receipts` are the node's side of ACI (docs/node-profile.md), `node` is the ASGI application, `source`
and `backend` are where answers come from, `api` holds the client APIs, `lm` the language model, `dishonest` the lies,
`command` the command line. The node talks to the gateway through HTTP alone.
"""
