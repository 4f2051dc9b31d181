"""One request as pure steps: read its head, follow its answer byte by byte, decide what may leave and when.

`head` reads the few fields that we need and leaves the bytes alone; `sse` frames event streams by bytes; `answer` and
`stream` observe what an answer is made of; `release` holds back what may not leave yet; `render` writes what we add.
Nothing here knows a socket, a clock or a node.
"""
