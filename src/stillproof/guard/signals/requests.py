"""What the members of a cluster ask for: once and for all, in the shape of training data, from where."""

from __future__ import annotations

import numpy as np

from stillproof.guard.signals.registry import signal
from stillproof.guard.signals.view import Reals, View, ratio


@signal(
    "opening",
    group="novelty",
    unit="share",
    honest_causes="batch jobs and single-purpose applications",
    cleared_by="nothing by itself",
)
def opening(view: View) -> Reals:
    """Share of requests that open a conversation: harvests seldom follow up."""
    return view.share("n_opening")


@signal(
    "never_twice",
    group="novelty",
    unit="share",
    honest_causes="pipelines over fresh data",
    cleared_by="the data set that is worked through",
)
def never_twice(view: View) -> Reals:
    """Distinct prompts of each member over its exchanges: sampling without replacement."""
    return ratio(view.variety["n_unit_prompts"], view.variety["n"])


@signal(
    "complementary",
    group="partition",
    unit="share",
    honest_causes="unrelated users with unrelated tasks",
    cleared_by="nothing by itself",
)
def complementary(view: View) -> Reals:
    """Distinct prompts over distinct (member, prompt): 1 where the members share one list out among them.

    Release-day benchmarkers and classes all send the same questions; a pool sends each once.
    """
    return ratio(view.variety["n_prompts"], view.variety["n_unit_prompts"])


@signal(
    "shared_list",
    group="sharing",
    unit="share",
    honest_causes="a public benchmark; an assignment; examples from a manual",
    cleared_by="the public source of the prompts",
)
def shared_list(view: View) -> Reals:
    """Share of exchanges whose exact prompt another member sent too: k answers a prompt, spread over accounts."""
    return view.variety["share"]


@signal(
    "many_samples",
    group="shape",
    unit="share",
    honest_causes="self-consistency, evaluations",
    cleared_by="nothing by itself",
)
def many_samples(view: View) -> Reals:
    """Share of requests for several answers at once."""
    return view.share("n_sampled")


@signal(
    "logprobs",
    group="shape",
    unit="share",
    honest_causes="calibration research, classifiers built on log-probabilities",
    cleared_by="log-probabilities are switched off for the accounts",
)
def logprobs(view: View) -> Reals:
    """Share of requests for top log-probabilities."""
    return view.share("n_logprobs")


@signal(
    "one_setting",
    group="shape",
    unit="share",
    honest_causes="any application with a fixed configuration",
    cleared_by="nothing by itself",
)
def one_setting(view: View) -> Reals:
    """Share of the most frequent sampling parameters."""
    return view.variety["top_params_share"]


@signal(
    "borrowed_reasoning",
    group="replay",
    unit="share",
    honest_causes="a conversation carried on under another account of the same person",
    cleared_by="the accounts are declared as one customer",
)
def borrowed_reasoning(view: View) -> Reals:
    """Share of requests that send back an encrypted reasoning block which the sender was never given.

    After "Stealing Reasoning Traces from Proprietary LLM APIs" (arXiv 2608.09867).
    """
    return ratio(view.variety["n_borrowed"], view.variety["n"])


@signal(
    "elicitation",
    group="content",
    unit="share",
    honest_causes="audit trails, teaching, safety research",
    cleared_by="a declared purpose; summarised reasoning in place of the whole",
)
def elicitation(view: View) -> Reals:
    """Share of requests that ask for the reasoning itself."""
    return view.share("n_flag0")


@signal(
    "grading",
    group="content",
    unit="share",
    honest_causes="evaluations, moderation",
    cleared_by="a declared purpose",
)
def grading(view: View) -> Reals:
    """Share of requests that have answers graded by a rubric, or tasks invented: reward models and instruction data."""
    return view.share("n_flag1") + view.share("n_flag2")


@signal(
    "long_answers",
    group="content",
    unit="log2 tokens",
    honest_causes="writing tools",
    cleared_by="nothing by itself",
)
def long_answers(view: View) -> Reals:
    """Tokens of answer and reasoning an exchange."""
    return np.log2(ratio(view.by_case("response_tokens") + view.by_case("reasoning_tokens"), view.by_case("n")) + 1)


@signal(
    "volume",
    group="volume",
    unit="log2 a day",
    honest_causes="heavy users",
    cleared_by="a smaller volume",
)
def volume(view: View) -> Reals:
    """Exchanges a day of the median member."""
    n = view.by_member("n") / np.maximum(view.horizon_h[view.member_case], 1e-9) * 24
    order = np.lexsort((n, view.member_case))
    bounds = np.searchsorted(view.member_case[order], np.arange(view.n_cases + 1))
    middle = np.minimum((bounds[:-1] + bounds[1:]) // 2, max(order.size - 1, 0))
    return np.log2(n[order[middle]] + 0.5) if order.size else np.full(view.n_cases, np.nan)


@signal(
    "shared_network",
    group="infrastructure",
    unit="share",
    honest_causes="a university, an office, a mobile carrier behind one address",
    cleared_by="the organisation behind the network",
)
def shared_network(view: View) -> Reals:
    """1 - distinct networks over members."""
    members = np.bincount(view.member_case, minlength=view.n_cases).astype(float)
    return 1 - np.minimum(ratio(view.variety["n_networks"], members), 1)


@signal(
    "one_client",
    group="infrastructure",
    unit="share",
    honest_causes="any tool: its users share its user agent",
    cleared_by="nothing by itself",
)
def one_client(view: View) -> Reals:
    """Share of the most frequent client."""
    return view.variety["top_client_share"]
