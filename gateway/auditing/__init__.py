"""Sampled audits of answers that have left: chosen by a committed seed, judged later, and written down for auditors.

    epochs     seeds: committed to in the log before a request is taken under them, revealed in it afterwards
    settling   what the log says of an epoch, and so what it still lacks
    auditor    the queue between an answer's release and its audit, the judge, and what follows from a failure

What is kept to: an epoch's commitment is durable before `Auditor.terms` names the epoch; whether an answer is audited
is decided after its release, by the seed alone; every answer that the seed selected has one `audit` entry before the
seed is revealed, be it that the audit could not be done and why. After a crash the start settles what the run before
left, by the function that settles every epoch.
"""

from .auditor import Auditor, Limits, Released, audited_by
from .epochs import Journal

__all__ = ["Auditor", "Journal", "Limits", "Released", "audited_by"]
