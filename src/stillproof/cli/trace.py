"""`stillproof trace …`: make a key, plan an audit, ask a suspect, replay the evidence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from stillproof.cli.answering import Result, answer
from stillproof.cli.options import AsJson, examples, group
from stillproof.cli.trace_work import (
    Asked,
    Controls,
    agreement_of,
    candidates_of,
    outputs_of,
    plan_of_coins,
    plan_of_radioactivity,
    replay_of,
)

if TYPE_CHECKING:
    from stillproof.finding import Decision

KeyFile = Annotated[
    Path,
    typer.Option(
        "--key", metavar="FILE", help="Key of the mark, or NAME.vN.key of the coins; it stays with its owner."
    ),
]
PlanOut = Annotated[Path, typer.Option("--out", metavar="FILE", help="The plan to write, plan.json.")]
TestName = Literal["radioactivity", "twins", "cards"]
Store = Annotated[
    Path | None, typer.Option("--served", metavar="STORE", help="twins, cards: store of `serve --record`.")
]
LedgerFolder = Annotated[
    Path | None, typer.Option("--ledger", metavar="DIR", help="twins, cards: ledger of `serve --ledger`.")
]

trace_app = group(
    "Prove that a model learned from what you served.",
    examples(
        "stillproof trace key --out key.json",
        "stillproof trace plan --key key.json --tokenizer models/ours --prompts prompts.txt --out plan.json",
        "stillproof trace outputs --suspect models/theirs --plan plan.json --key key.json --out runs/audit",
        "stillproof trace replay runs/audit --key key.json",
        "stillproof trace plan --test twins --key keys/coins.v1.key --served served --ledger ledger --out twins.json",
        "stillproof trace outputs --suspect models/theirs --plan twins.json --key keys/coins.v1.key --served served "
        "--ledger ledger --out runs/twins",
    ),
)


@trace_app.command("key", epilog=examples("stillproof trace key --out key.json --kind gumbel --k 2"))
def _key(
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="File of the new key.")],
    kind: Annotated[Literal["green", "gumbel"], typer.Option("--kind", help="Kind of mark.")] = "green",
    k: Annotated[int, typer.Option("--k", min=1, max=8, help="Tokens of context in a window.")] = 1,
    gamma: Annotated[float, typer.Option("--gamma", help="green: share of tokens that are green.")] = 0.25,
    delta: Annotated[float, typer.Option("--delta", help="green: what is added to their logits, nats.")] = 2.0,
    second_share: Annotated[float, typer.Option("--second-share", help="gumbel: share under the second key.")] = 0.1,
    account_share: Annotated[
        float, typer.Option("--account-share", help="Share of windows that carry sub-keys of accounts.")
    ] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Make a key, and print the commitment to publish before serving."""

    def work() -> Result:
        from stillproof.trace.key_file import create_mark_key
        from stillproof.watermark import Scheme

        scheme = Scheme(kind, k, gamma, delta, second_share, account_share)
        key = create_mark_key(out, scheme)
        return {"key": str(out), "commitment": key.commitment, "scheme": key.scheme.to_json()}

    answer(work, as_json)


@trace_app.command(
    "plan",
    epilog=examples(
        "stillproof trace plan --key key.json --tokenizer models/ours --prompts prompts.txt --out plan.json",
        "stillproof trace plan --key key.json --tokenizer smollm2 --prompts p.jsonl --stop anytime --out plan.json",
        "stillproof trace plan --test twins --key keys/coins.v1.key --served served --ledger ledger --out plan.json",
    ),
)
def _plan(
    key: KeyFile,
    out: PlanOut,
    test: Annotated[TestName, typer.Option("--test", help="What the audit tests.")] = "radioactivity",
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", metavar="DIR", help="radioactivity: folder or GGUF file of the model that served."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", metavar="FILE", help="One a line, or .jsonl with `prompt` (cards: and `scope`)."),
    ] = None,
    served: Store = None,
    ledger: LedgerFolder = None,
    accounts: Annotated[
        str | None,
        typer.Option("--accounts", metavar="all|FILE", help="Also test accounts, each, with Holm; pseudonyms in FILE."),
    ] = None,
    score: Annotated[
        Literal["logprobs", "text", "continuation"],
        typer.Option("--score", help="twins: the suspect reads both, answers itself, or goes on from beginnings."),
    ] = "logprobs",
    places: Annotated[
        int, typer.Option("--places", min=10, help="twins by continuation: calls at most, where the control is torn.")
    ] = 5_000,
    control: Annotated[
        list[str] | None,
        typer.Option(
            "--control", metavar="DIR", help="twins: model whose own view is taken out of the suspect's; may repeat."
        ),
    ] = None,
    primary: Annotated[
        Literal["sign", "flip", "wilcoxon"] | None, typer.Option("--primary", help="twins, cards: test that decides.")
    ] = None,
    min_units: Annotated[
        int, typer.Option("--min-units", help="twins, cards: fewer pairs or cards decide nothing.")
    ] = 10,
    alpha: Annotated[float, typer.Option("--alpha", min=1e-300, max=0.5, help="Level of the decision.")] = 1e-3,
    decoys: Annotated[int, typer.Option("--decoys", help="Decoy keys, 10,000 or more.")] = 10_000,
    min_tuples: Annotated[int, typer.Option("--min-tuples", help="Fewer scored tuples decide nothing.")] = 100,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of decoy keys, and of the suspect's sampling.")] = 0,
    stop: Annotated[
        Literal["all", "anytime"],
        typer.Option("--stop", help="all: test once, after every prompt; anytime: stop when the evidence is enough."),
    ] = "all",
    batch: Annotated[int, typer.Option("--batch", min=1, help="Calls between two looks of an anytime audit.")] = 64,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Answers to each prompt.")] = 1,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Tokens of an answer, at most.")] = 128,
    temperature: Annotated[float, typer.Option("--temperature", min=0, help="0 takes the likeliest token.")] = 1.0,
    system: Annotated[str | None, typer.Option("--system", help="System message before every prompt.")] = None,
    mode: Annotated[
        Literal["closed", "open"],
        typer.Option("--mode", help="closed: text alone; open: log-probabilities of a suspect with our tokenizer."),
    ] = "closed",
    top_logprobs: Annotated[int, typer.Option("--top-logprobs", min=2, help="open: candidates a token.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Fix an audit before its first query, and print its id to publish."""

    def work() -> Result:
        if test == "radioactivity":
            from stillproof.trace.plan import Choices

            chosen = Choices(
                alpha=alpha,
                n_decoys=decoys,
                min_tuples=min_tuples,
                seed=seed,
                stopping=stop,
                batch=batch,
                samples=samples,
                max_tokens=max_tokens,
                temperature=temperature,
                system=system or None,
                mode=mode,
                top_logprobs=top_logprobs,
                accounts=_accounts_of(accounts),
            )
            return plan_of_radioactivity(key, tokenizer, prompts, out, chosen)
        from stillproof.trace.coin_plan import CoinChoices

        coined = CoinChoices(
            alpha=alpha,
            primary=primary,
            min_units=min_units,
            seed=seed,
            stopping=stop,
            batch=batch,
            samples=samples,
            max_tokens=max_tokens,
            temperature=temperature,
            system=system or None,
            score=score if test == "twins" else "logprobs",
            accounts=() if accounts == "all" else _accounts_of(accounts),
        )
        read = Controls(tuple(control or ()), places)
        return plan_of_coins(test, key, (served, ledger), prompts, out, choices=coined, controls=read)

    answer(work, as_json)


@trace_app.command(
    "candidates",
    epilog=examples(
        "stillproof trace candidates --key keys/coins.v1.key --served served --ledger ledger --out both.jsonl"
    ),
)
def _candidates(
    key: KeyFile,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The .jsonl to write; it holds sealed answers.")],
    served: Store = None,
    ledger: LedgerFolder = None,
    as_json: AsJson = False,
) -> None:
    """Write both candidates of all twins, to train a control model on."""

    def work() -> Result:
        return candidates_of(key, (served, ledger), out)

    answer(work, as_json)


@trace_app.command(
    "outputs",
    epilog=examples(
        "stillproof trace outputs --suspect models/theirs --plan plan.json --key key.json --out runs/audit",
        "stillproof trace outputs --suspect https://api.example.com/v1 --model theirs --plan plan.json --key key.json "
        "--out runs/audit --max-calls 500 --if-exists resume",
        "stillproof trace outputs --test agreement --suspect store/theirs --served store/ours --nulls store/nulls",
    ),
)
def _outputs(
    suspect: Annotated[
        str, typer.Option("--suspect", metavar="DIR_OR_URL", help="Weights, GGUF file, endpoint, or recorded store.")
    ],
    plan: Annotated[Path | None, typer.Option("--plan", metavar="FILE", help="Plan of the audit.")] = None,
    key: Annotated[
        Path | None, typer.Option("--key", metavar="FILE", help="Key of the mark, or NAME.vN.key of the coins.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="BUNDLE", help="Folder of the evidence.")] = None,
    test: Annotated[
        Literal["radioactivity", "twins", "cards", "agreement"] | None,
        typer.Option("--test", help="Test that the plan fixed; another is refused. agreement needs no plan."),
    ] = None,
    served: Store = None,
    nulls: Annotated[
        Path | None,
        typer.Option("--nulls", metavar="DIR", help="agreement: stores of null models, DIR/MODEL or DIR/BASE/MODEL."),
    ] = None,
    statistic: Annotated[
        Literal["paired", "rare"], typer.Option("--statistic", help="agreement: what is ranked.")
    ] = "paired",
    alpha: Annotated[float, typer.Option("--alpha", min=1e-300, max=0.5, help="agreement: level.")] = 0.01,
    ledger: LedgerFolder = None,
    model: Annotated[str, typer.Option("--model", help="Name of the model at the endpoint.")] = "",
    api_key_env: Annotated[
        str, typer.Option("--api-key-env", metavar="NAME", help="Environment variable of the endpoint's key.")
    ] = "OPENAI_API_KEY",
    requests_per_minute: Annotated[
        float | None, typer.Option("--requests-per-minute", min=0.01, help="Pace kept at an endpoint.")
    ] = None,
    max_calls: Annotated[
        int | None, typer.Option("--max-calls", min=1, help="Cap on answered calls, earlier runs included.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", metavar="DIR", help="Where the plan's tokenizer is now.")
    ] = None,
    plan_id: Annotated[
        str | None, typer.Option("--plan-id", metavar="SHA256", help="Id as published; another plan is refused.")
    ] = None,
    reveal_key: Annotated[bool, typer.Option("--reveal-key", help="Put the key into the bundle.")] = False,
    if_exists: Annotated[
        Literal["fail", "resume"], typer.Option("--if-exists", help="Where an audit was begun: stop, or go on.")
    ] = "fail",
    as_json: AsJson = False,
) -> None:
    """Ask a suspect what the plan says, test its answers, seal the evidence.

    Exit code 3 where the mark was found, 4 where the evidence could not decide, 0 where it was not found.
    """

    def work() -> Result:
        if test == "agreement":
            return agreement_of(suspect, served, nulls, statistic, alpha)
        if plan is None or key is None or out is None:
            from stillproof.errors import ConfigError

            raise ConfigError("an audit needs its plan, its key and a new folder", "--plan, --key, --out")
        from stillproof.trace.auditing import AuditLimits
        from stillproof.trace.suspect import suspect_config

        config = suspect_config(suspect, model=model, api_key_env=api_key_env, requests_per_minute=requests_per_minute)
        limits = AuditLimits(plan_id, max_calls, if_exists == "resume", reveal_key)
        asked = Asked(plan, key, out, tokenizer, served, ledger)
        return outputs_of(config, asked, limits, test)

    answer(work, as_json, exit_code_of_finding)


@trace_app.command(
    "replay",
    epilog=examples(
        "stillproof trace replay runs/audit --json",
        "stillproof trace replay runs/audit --key key.json --bundle-sha256 9f2c41d0...",
    ),
)
def _replay(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of the evidence.")],
    key: Annotated[
        Path | None, typer.Option("--key", metavar="FILE", help="The key, where the bundle does not reveal it.")
    ] = None,
    bundle_sha256: Annotated[
        str | None, typer.Option("--bundle-sha256", metavar="SHA256", help="Digest as published.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", metavar="DIR", help="Also check that the token ids spell the text.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compute the finding of a bundle again, without model or network.

    Fails where a byte of the bundle changed. Exit codes as of `trace outputs`.
    """

    def work() -> Result:
        return replay_of(bundle, key, bundle_sha256, tokenizer)

    answer(work, as_json, exit_code_of_finding)


def _accounts_of(accounts: str | None) -> tuple[str, ...] | None:
    if accounts is None:
        return None
    from stillproof.trace.plan import read_accounts

    return read_accounts(accounts)


def exit_code_of_finding(result: Result) -> int:
    from stillproof.finding import EXIT_CODES

    told = [result, *cast("list[Result]", result.get("accounts_tested") or [])]
    decisions = {cast("Decision", one["decision"]) for one in told}
    if "found" in decisions:
        return EXIT_CODES["found"]
    return EXIT_CODES[cast("Decision", result["decision"])]
