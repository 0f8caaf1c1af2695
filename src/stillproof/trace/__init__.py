"""trace: was a suspect model trained on what we served?

evidence.py       (window, token) tuples of a suspect's text or log-probabilities, each counted once
tails.py          tails of sums of scores in log10, however small
radioactivity.py  did the suspect learn from text that carries our key? closed and open mode, per account, anytime
key_file.py       a watermark key as a file
plan.py           what an audit will do, fixed before the first query
tokens.py         a suspect's text as ids of the marked vocabulary
suspect.py        asking, each answer on disk before the next
unfinished.py     what is said where a suspect's rate limit stopped an audit
verdict.py        from transcripts to a Finding
bundle.py         the evidence as a folder that a stranger replays
sealing.py        the digests of such a folder, whatever its test
auditing.py       the steps of one audit, plan to bundle
flips.py          p-values of coins: signs, sign-flips, signed ranks, however small
pairs.py          twins as the ledger keeps them, and which pairs may be tested
twins.py          does the suspect prefer what was served to what a coin kept back?
cards.py          does it prefer the forms that were planted?
agreement.py      does it answer as we do, more than null models? supports, and is no proof
served.py         twins and cards out of store and ledger: all but the coins, and the coins
coin_plan.py, coin_verdict.py, coin_bundle.py, coin_audit.py    the same steps for audits by twins or cards
control.py        what the owner's own models make of twins, so that a suspect's scores say only what is its own
reading.py        suspects that say how likely a text given to them is
weights/          do the weights of two models have a common origin?

Twins are drawn and cards planted by `stillproof.serve.coined`.
"""
