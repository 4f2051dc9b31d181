"""An OpenGradient network on loopback, for tests: chain RPCs with the TEE registry, enclaves, the OHTTP relay, x402.

    with Network() as network:                      # threads of its own; `async with` works as well
        network.rpc_urls, network.relay_url, network.enclave.url, network.enclave.tee_id
        network.faults.add("tamper")                # a fault works from the next request on
        network.heard                               # every request that came in

Made from the protocol alone (OpenGradient's tee-gateway, TEERegistry, og-x402; RFC 9458) and independent of the
gateway's own OpenGradient code, so that it can judge it. Keys are throwaway, the attestation root is a test's.
`python -m opengradient_world --port 18545` starts it by hand, from tests/.
"""

from .faults import FAULTS
from .network import Network

__all__ = ["FAULTS", "Network"]
