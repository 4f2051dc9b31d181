"""What can be wrong with the network, by name."""

from __future__ import annotations

FAULTS = {
    # answers
    "tamper": "the text that is delivered is not the text that was signed",
    "stale": "signed two hours ago",
    "future": "signed in fifteen minutes",
    "wrongkey": "signed by another key, under the enclave's own id",
    "nosig": "no signature",
    "cut": "the answer ends in the middle, before its signature",
    "err500": "the provider fails (500 -> 502 with the gateway's error object)",
    "replay": "the first answer to a request is given again, with its valid signature",
    "unsigned_toolcall": "a tool call rides along with a signed text",
    "second_choice": "a second choice rides along",
    "promoted": "a signed text is delivered as a tool call",
    "done_in_text": "honest: the text holds `[DONE]`, alone in one delta too",
    "key_rotated": "the enclave restarted with new keys; the registry still lists the old ones",
    # the relay
    "relay401": "the relay does not accept the account's token",
    # the registry and its RPC endpoints
    "lying_registry": "endpoint 0 lists an enclave of its own in place of the true one",
    "changing_registry": "every read of the registry finds another heartbeat",
    "wrong_chain": "endpoint 0 is of another chain",
    "rpc_hang": "endpoint 0 never answers",
    "rpc_huge": "endpoint 0 answers with 64 MiB",
    "rpc_redirect": "endpoint 0 answers with a redirect",
    # attestation
    "expired_attestation": "the document holds our nonce and is an hour old",
    "replayed_attestation": "the first document is given again, whatever the nonce",
    "pcr_unknown": "the enclave runs a build that the registry approved and nobody knows",
    # payment
    "pay_too_much": "a payment of a thousand times the price is asked for",
    "pay_other_asset": "payment in another token is asked for",
    "pay_other_payee": "payment to somebody else is asked for",
    "pay_forever": "no payment is ever enough",
}


class Faults(set[str]):
    """The faults in force. A name that is none raises, so that no test passes by a misspelling."""

    def __init__(self, names: object = ()) -> None:
        super().__init__()
        for name in names:  # type: ignore[attr-defined]
            self.add(name)

    def add(self, name: str) -> None:
        if name not in FAULTS:
            raise KeyError(name)
        super().add(name)

    def __contains__(self, name: object) -> bool:
        if name not in FAULTS:
            raise KeyError(name)
        return super().__contains__(name)
