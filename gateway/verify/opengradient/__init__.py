"""OpenGradient: the statement that its tee-gateway signs with every answer.

What it proves: the holder of one registered RSA key saw exactly this canonical request and put out exactly this text,
or these tool calls, at the stated second.

What it does not prove: that a model ran inside the enclave (it relays to a provider outside, so `executed_in_tee` is
refuted), which model made the answer, that the answer was made for this request rather than for an equal one (no nonce
is signed), or anything about what stands beside the text or the calls: usage, cost, images, citations, ids, the reason
to stop and the model's echoed name are never covered. Attachments are covered by name only.

    canonical   the exact bytes of request and output that are hashed
    statement   the signed members of an answer, and their signature
    answer      what of an answer the statement speaks about
    response    the appraisal of one answer
    record      the statement as it is kept, for an auditor to run the same checks again
"""
