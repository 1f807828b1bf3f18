"""The process in which a named port is judged; `process.py` starts it and asks it, a line of JSON for each question.

Nothing that the port does here reaches the process that gives the verdict: not an exit, a crash, a hang or what it
prints. What it writes to its standard output goes to the standard error; the lines of JSON have a descriptor of
their own.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import asdict
from typing import Any, TextIO

HUNG = 70  # exit code of a process that ended itself
GRACE = 2.0  # seconds beyond the limit
LOADING = 120.0  # seconds at least that importing a port may take: frameworks are large


class Watchdog:
    """A context around each call of the port: when one takes too long, says so and ends the process."""

    def __init__(self, limit: float, answers: TextIO):
        self.limit, self.answers = limit, answers
        self.deadline: float | None = None
        self.asked: dict[str, Any] = {}
        self.case: Any = None
        self.port: Any = None
        self.main = threading.get_ident()
        threading.Thread(target=self._watch, daemon=True).start()

    def __enter__(self) -> None:
        self.deadline = time.monotonic() + self.limit

    def __exit__(self, *error: object) -> None:
        self.deadline = None

    def _watch(self) -> None:
        while True:
            # Where a call keeps the interpreter's lock, this thread does not come to it: then this ends the process.
            faulthandler.dump_traceback_later(self.limit + GRACE, exit=True)
            time.sleep(min(0.05, self.limit / 4))
            deadline = self.deadline
            if deadline is not None and time.monotonic() > deadline:
                self._tell()

    def _tell(self) -> None:
        message = f"it hangs: one call has not ended after {self.limit:g} s"
        frames = traceback.extract_stack(sys._current_frames().get(self.main))
        ours = os.path.dirname(__file__)
        last = max((n for n, frame in enumerate(frames) if frame.filename.startswith(ours)), default=-1)
        theirs = frames[last + 1 :][-6:]
        where = "".join(["where it was:\n", *traceback.format_list(theirs)]) if theirs else ""
        case = self.case
        try:
            text = case.text() if case else ""
            lines = case.reproduce(self.port, None, message) if case else ""
        except Exception:
            text = lines = ""
        say(
            self.answers,
            {"how": "hangs", "message": message, "details": where, "case": text, "lines": lines},
        )
        os._exit(HUNG)


def say(answers: TextIO, what: dict) -> None:
    answers.write(json.dumps(what) + "\n")
    answers.flush()


def serve(questions: TextIO, answers: TextIO) -> None:
    """Load the port, and answer until there is no more question."""
    from .fence import of_the_process
    from .loading import load
    from .port import PortError
    from .result import Ended

    start = json.loads(questions.readline())
    limit = start["limit"]
    watchdog = Watchdog(max(limit, LOADING), answers)
    with watchdog:
        try:
            port = load(start["target"], **start["how"])
        except PortError as error:
            say(answers, {"port_error": str(error)})
            return
        except Ended as ended:
            say(answers, {"port_error": f"{start['target']}: {ended}"})
            return
    port.clock, watchdog.port, watchdog.limit = watchdog, port, limit
    say(answers, {"name": port.name, "dtypes": port.dtypes, "provides": port.provided})
    for line in questions:
        asked = json.loads(line)
        try:
            say(answers, _answer(port, asked, watchdog))
        except BaseException as error:
            if of_the_process(error):
                raise
            say(answers, {"fault": traceback.format_exc()})


def _answer(port: Any, asked: dict, watchdog: Watchdog) -> dict:
    from .judging import judge
    from .registry import PROPERTIES
    from .result import clean

    if "vector" in asked:
        from .vectors import check_one

        watchdog.case = None
        return asdict(check_one(asked["rule"], asked["vector"], port))

    def on_case(case: Any) -> None:
        watchdog.case = case
        if asked.get("trace"):
            lines = case.reproduce(port, None, "") if case else ""
            say(watchdog.answers, {"case": clean(case.text()) if case else "", "lines": lines})

    options = {name: asked[name] for name in ("seed", "examples", "contract")}
    return asdict(judge(PROPERTIES[asked["judge"]], port, on_case=on_case, **options))


def main() -> None:
    """Answer on what was the standard output, which from here on is the standard error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks; it ends this one
    faulthandler.enable()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    questions = os.fdopen(os.dup(0), encoding="utf-8")
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    serve(questions, answers)
    answers.flush()
    os._exit(0)  # threads that the port has left do not keep it
