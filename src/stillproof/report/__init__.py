"""What a person reads: findings, retention, plans, verdicts, stores.

    text.py      plain() makes any text safe to show; number() and interval() say how numbers look
    terminal.py  to_terminal(value)    on stdout, as tables
    frame.py     write_html(...)       what every HTML page shares: escaping, policy, colours
    page.py      to_html(value, path)  one self-contained page, `page.html.jinja`
    campaigns.py campaigns_of(result)  what is said of a guard scan, for both (guard draws its own page)
    artefact.py  read(path)            an artefact of ours as a mapping, for both

Text in a value comes from logs and model cards, so anybody may have written it: nothing is shown unescaped.
"""

from stillproof.report.artefact import read
from stillproof.report.page import to_html
from stillproof.report.terminal import to_terminal

__all__ = ["read", "to_html", "to_terminal"]
