"""The attested channel: our own HTTP/1.1 client, the only code of this project that reads what a node sends.

`pool.UpstreamPool` and `connection.Connection` are the hot path; `transport.control_client` puts the httpx API over the
same pool for everything that is not.
"""
