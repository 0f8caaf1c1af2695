"""trace: was a suspect model trained on what we served?

evidence.py       (window, token) tuples of a suspect's text or log-probabilities, each counted once
tails.py          tails of sums of scores in log10, however small
radioactivity.py  did the suspect learn from text that carries our key? closed and open mode, per account, anytime
"""
