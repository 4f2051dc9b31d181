"""Sigstore bundles, offline: a build attestation, a trust root that the operator gave and a time in; claims out.

Written from the public documents (Sigstore's bundle and trusted-root protocols, RFC 6962, DSSE, in-toto Statement v1,
Fulcio's OIDs), on `cryptography` alone; docs/decisions/0019-provenance.md says why. What is read:

    bundle        media type v0.3, one certificate, one DSSE signature, log entries of kind dsse 0.0.1 with a promise
                  (SET), an inclusion proof and a checkpoint
    trust root    trusted_root.json as Sigstore publishes it; ECDSA keys, any number of CAs

`verify.verify_bundle` is the door. Nothing here holds a key of Sigstore's: whose root is trusted, the operator says.
"""
