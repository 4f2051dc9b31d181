"""The client APIs that the node speaks. One module per path: `prepare(document, engine, label)` reads a request into a
job and a writer; the writer turns the engine's events into the bytes of that API, as one JSON body or as events.
"""
