"""bench.json as text: one table for speed and memory, one for quality, and the command behind every row."""

from __future__ import annotations

from typing import Any

REUSES = 3


def summary(result: dict[str, Any]) -> dict[str, float]:
    """Rates of ours with the teacher's cache counted, and how they and the memory stand beside tuned TRL."""
    cells = {cell["side"]: cell for cell in result["train"]}
    ours, peer = cells["stillproof"], cells["trl tuned"]
    caches = {cell["memory"]: cell for cell in result["cache"]}
    once, shared = (_with_cache(ours, caches[ours["memory"]], share) for share in (1, REUSES))
    without, tuned = (cell["tokens_per_step"]["real"] / cell["step_wall_s"]["median"] for cell in (ours, peer))
    return {
        "tokens_per_s": without,
        "tokens_per_s_cache_once": once,
        "tokens_per_s_cache_shared": shared,
        "over_tuned_once": once / tuned,
        "over_tuned_shared": shared / tuned,
        "over_tuned_without": without / tuned,
        "memory_of_tuned": ours["peak_rss_mb"]["median"] / peer["peak_rss_mb"]["median"],
    }


def _with_cache(cell: dict[str, Any], cache: dict[str, Any], share: int) -> float:
    """Tokens a second where the teacher's pass is counted once in `share` uses."""
    n = cell["tokens_per_step"]["real"]
    return n / (cell["step_wall_s"]["median"] + cache["s_per_token"]["median"] * n / share)


def of(result: dict[str, Any]) -> str:
    plan, machine = result["plan"], result["machine"]
    skip = result["skip_steps"]
    caches = {cell["memory"]: cell for cell in result["cache"]}
    commands: list[str] = []
    lines = [
        f"Machine: {machine['processor']}, {machine['cores']} cores, {plan['threads']} threads, "
        f"Python {machine['python']}. Job: {plan['student_parameters'] / 1e6:.1f}M parameters, "
        f"{plan['rows_per_step']} rows of {plan['row_tokens']} tokens a step, "
        f"{plan['documents_per_row']:.1f} documents a row, forward KL, {plan['dtype']} arithmetic.",
        f"Medians of {result['runs']} processes [lowest-highest], each the median of its steps "
        f"{skip + 1} to {result['timing_steps'] - 1}. TRL tuned: {result['micro_rows']} rows a forward pass.",
        "",
        "| | allocator | s/step | real tokens/s | in loss/s | cache once | cache x3 | CPU s/step | peak MB | command |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for cell in result["train"]:
        commands.append(cell["command"])
        lines.append(_train_line(cell, caches[cell["memory"]], len(commands)))
    lines += [
        "",
        "| teacher cache | allocator | tokens/s | bytes/position | peak MB | command |",
        "|---|---|---|---|---|---|",
    ]
    for cell in result["cache"]:
        commands.append(cell["command"])
        rate = 1 / cell["s_per_token"]["median"]
        lines.append(
            f"| stillproof | {cell['allocator']} | {rate:,.0f} | {cell['bytes_per_position']:.0f} "
            f"| {_spread(cell['peak_rss_mb'], 0)} | {len(commands)} |"
        )
    lines += ["", *_quality(result, commands), "", "Commands:", ""]
    lines += [f"{number}. `{command}`" for number, command in enumerate(commands, 1)]
    return "\n".join(lines) + "\n"


def _train_line(cell: dict[str, Any], cache: dict[str, Any], number: int) -> str:
    step_s, tokens = cell["step_wall_s"]["median"], cell["tokens_per_step"]
    rates = ["", ""]
    if cell["side"] == "stillproof":
        rates = [f"{_with_cache(cell, cache, share):,.0f}" for share in (1, REUSES)]
    return (
        f"| {cell['side']} | {cell['allocator']} | {_spread(cell['step_wall_s'], 2)} | {tokens['real'] / step_s:,.0f} "
        f"| {tokens['in_loss'] / step_s:,.0f} | {rates[0]} | {rates[1]} | {cell['step_cpu_s']['median']:.2f} "
        f"| {_spread(cell['peak_rss_mb'], 0)} | {number} |"
    )


def _quality(result: dict[str, Any], commands: list[str]) -> list[str]:
    quality = result["quality"]
    plan = quality["plan"]
    tokens = " and ".join(f"{count:,.0f}" for count in sorted(set(quality["tokens"])))
    lines = [
        f"After {quality['steps']} steps of {plan['rows_per_step']} rows, {plan['documents_per_row']:.1f} documents a "
        f"row of at most {plan['row_tokens']} tokens, the same {tokens} tokens for both, on "
        f"{quality['n_positions']:,} held-out positions (one evaluator, one run each; intervals over "
        "documents, not over trainings):",
        "",
        "| student | KL to the teacher, nats | 95% interval | top-1 agreement | command |",
        "|---|---|---|---|---|",
    ]
    numbers = {}
    for name, command in zip(("trl tuned", "stillproof"), quality["commands"], strict=True):
        commands.append(command)
        numbers[name] = f"{len(commands)}, "
    commands.append(quality["score_command"])
    for name, found in quality["models"].items():
        low, high = found["kl_nats_interval"]
        lines.append(
            f"| {name} | {found['kl_nats']:.3f} | {low:.3f}-{high:.3f} | {found['agreement']:.1%} "
            f"| {numbers.get(name, '')}{len(commands)} |"
        )
    return lines


def _spread(values: dict[str, Any], decimals: int) -> str:
    shown = [f"{values[key]:,.{decimals}f}" for key in ("median", "low", "high")]
    return f"{shown[0]} [{shown[1]}-{shown[2]}]"
