"""veriroute: an OpenAI-compatible gateway that appraises the evidence behind an answer before an agent relies on it.

The claim: an answer that leaves with the verdict ``affirming`` was covered, byte for byte, by evidence that the policy
in force accepts, and a durable, included log entry says so. The limits stand in the README beside the claim.

    from gateway.offline import verify_bundle      # what `veriroute verify FILE` calls
"""

__version__ = "0.1.0"
