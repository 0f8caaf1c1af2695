"""The honest heavy classes: ordinary causes of every indicator that campaigns are named for.

The suite follows the benign causes that the indicators of AA26-251A (8 September 2026) have; each class has templates
as rare and groups as large as campaigns. A builder's settings are `rate_per_day` (mean of an account's exchanges a
day), `pool` (name of a prompt pool) and what its docstring names; `tz_offset_h`, `releases` and `catalogue` come from
the world. Rates are heavy-tailed over accounts and adoption is spread over time in every class.
"""

from __future__ import annotations

from stillproof.guard.traffic import honest_people, honest_programs, honest_suites
from stillproof.guard.traffic.stream import Builder

HONEST: dict[str, Builder] = {
    **honest_programs.PROGRAMS,
    **honest_suites.SUITES,
    **honest_people.PEOPLE,
}
