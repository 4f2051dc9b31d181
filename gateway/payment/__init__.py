"""Paying a node that asks for it: what it may ask, what is signed, and what its receipt is worth.

    terms     the 402 and the settlement, parsed strictly
    policy    the operator's spending rules over those terms: chosen, or refused with a reason
    eip712    the digests that a payment signs
    sign      the authorization and its header
    receipts  offers and receipts that the payee signs

Nothing here opens anything: the hour and the randomness of a nonce come in, the wallet is 32 bytes handed in. The
ledger that holds the caps is `gateway.storage.ledger`; what joins the two is `gateway.payer`.
"""
