"""A page in a real Chromium: its text, what it asked the network for, its complaints, and a picture. No driver."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


OWN_HOSTS = (".google.com", ".googleapis.com", ".gvt1.com")
"""Where Chromium itself asks for the time, dictionaries and updates."""


@dataclass(frozen=True)
class Seen:
    text: str
    """The document as it stands after loading."""
    requests: list[str]
    """Addresses that were asked for, other than files."""
    errors: list[str]
    """Lines of the page's console."""
    screenshot_bytes: int


def opened(page: Path, scratch: Path) -> Seen:
    """Skips the test where there is no Chromium."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no Chromium on PATH: none of {', '.join(NAMES)}")
    log, picture = scratch / "net.json", scratch / "page.png"
    common = [
        program,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-extensions",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        f"--user-data-dir={scratch / 'profile'}",
        "--enable-logging=stderr",
        "--window-size=1100,2400",
    ]
    address = page.resolve().as_uri()
    told = subprocess.run(
        [*common, f"--log-net-log={log}", "--dump-dom", address],
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    drawn = subprocess.run(
        [*common, f"--screenshot={picture}", address], capture_output=True, text=True, check=True, timeout=300
    )
    lines = [line for line in (told.stderr + drawn.stderr).splitlines() if ":CONSOLE" in line]
    size = picture.stat().st_size if picture.exists() else 0
    return Seen(told.stdout, _asked_for(log), lines, size)


def _asked_for(log: Path) -> list[str]:
    """Addresses of URL requests in Chromium's network log, its own housekeeping left out."""
    events = json.loads(log.read_text(encoding="utf-8"))["events"]
    addresses = {event.get("params", {}).get("url", "") for event in events}
    asked = {address for address in addresses if address.startswith(("http", "ws"))}
    return sorted(address for address in asked if not (urlsplit(address).hostname or "").endswith(OWN_HOSTS))
