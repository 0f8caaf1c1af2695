"""guard: find campaigns of linked accounts that harvest a model's answers, with a false-alarm rate that holds.

import_log(source, out, ...)    another tool's log as the log that guard reads

log.py          that log: exchanges as flat columns
importers/      logs of other tools, row by row
"""

from stillproof.guard.importers import import_log

__all__ = ["import_log"]
