"""A named port in a process of its own: started, asked, ended when it hangs, and started again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import replace
from typing import Any

from .port import PortError
from .registry import Property
from .result import How, PropertyResult
from .vectors import Checked

BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv.pop()); from gc_conformance.worker import main; main()"
LOUD = 1000  # lines of a port's own output that are passed on
TAIL = 12  # lines of it that a report shows


class WorkerFault(Exception):
    """The suite itself failed in the port's process. The text is the traceback."""


class Worker:
    """The process of a port, behind the same three words as `runner.Here`."""

    def __init__(self, target: str, limit: float, *, start: bool = True, **how: Any):
        self.target, self.limit, self.how = target, limit, how
        self.name: str = target
        self.dtypes: tuple[str, ...] = ()
        self.provided: tuple[str, ...] = ()
        self.closed = False
        self._process: subprocess.Popen | None = None
        if start:
            self._start()

    # ---- Asking

    def judge(self, prop: Property, *, seed: int, examples: int, contract: bool) -> PropertyResult:
        asked = {"judge": prop.id, "seed": seed, "examples": examples, "contract": contract}
        answer = self.ask(asked)
        if "ended" in answer:
            # It died without a word: once more, saying each case before it is tried.
            last = self._last_case(asked)
            answer = {"how": "dies", "message": answer["ended"], "details": answer["details"], **last}
        if "status" in answer:
            result = PropertyResult.from_dict(answer)
            if result.how != "dies":
                return result
            time.sleep(0.1)  # what a program has written last may still be on its way
            return replace(result, details=self._tail())
        how: How = answer["how"]
        return PropertyResult(
            prop.id,
            prop.chapter,
            prop.level,
            prop.title,
            "failed",
            message=answer["message"],
            counterexample=answer["case"],
            reproduce=answer["lines"],
            how=how,
            details=answer["details"],
        )

    def vector(self, rule: str, vector: dict) -> Checked:
        """Hold the port to one test vector."""
        answer = self.ask({"rule": rule, "vector": vector})
        if "status" in answer:
            return Checked(**{**answer, "flags": tuple(answer["flags"])})
        message = answer.get("ended") or answer["message"]
        return Checked(rule, vector["id"], tuple(vector["flags"]), "failed", message)

    def ask(self, question: dict) -> dict:
        """The answer to a question, or {"ended": how the process ended} and what it last wrote."""
        if self._process is None:
            self._start()
        try:
            self._say(question)
            answer = self._hear()
        except BaseException:  # Ctrl-C, or pytest's time limit: whatever it was about to answer is lost
            self._kill()
            raise
        if answer is None or answer.get("how") == "hangs":
            ended, details = self._reap(), self._tail()
            if answer is None and "Timeout (" in details:  # what faulthandler writes
                message = f"it hangs: one call has not ended after {self.limit:g} s"
                answer = {"how": "hangs", "message": message, "details": details, "case": "", "lines": ""}
            return answer or {"ended": ended, "details": details}
        if "fault" in answer:
            raise WorkerFault(answer["fault"])
        return answer

    def close(self) -> None:
        self.closed = True
        self._kill()

    def _last_case(self, asked: dict) -> dict[str, str]:
        last = {"case": "", "lines": ""}
        try:
            self._start()
            self._say({**asked, "trace": True})
            while (answer := self._hear()) and set(answer) == set(last):
                last = answer
        except PortError:
            pass
        self._kill()
        return last

    # ---- The process

    def _start(self) -> None:
        if self.closed:
            raise KeyboardInterrupt
        self._kill()
        own = {"start_new_session": True} if os.name == "posix" else {"creationflags": 0x200}
        path = [os.getcwd() if entry == "" else entry for entry in sys.path]
        process = subprocess.Popen(
            [sys.executable, "-c", BOOT, json.dumps(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="backslashreplace",
            env={**os.environ, "PYTHONIOENCODING": "utf-8:backslashreplace"},
            **own,  # type: ignore[arg-type]
        )
        self._process, self._lines = process, deque(maxlen=TAIL)
        self._reader = threading.Thread(target=self._pass_on, args=(process, self._lines), daemon=True)
        self._reader.start()
        self._say({"target": self.target, "how": self.how, "limit": self.limit})
        answer = self._hear()
        if answer is None or "how" in answer:
            why = answer["message"] if answer else self._reap()
            details = answer["details"] if answer else self._tail()
            self._kill()
            raise PortError(f"{self.target} cannot be imported: {why}\n{details}".rstrip())
        if "port_error" in answer:
            self._kill()
            raise PortError(answer["port_error"])
        self.name, self.dtypes, self.provided = answer["name"], tuple(answer["dtypes"]), tuple(answer["provides"])

    def _pass_on(self, process: subprocess.Popen, lines: deque[str]) -> None:
        """What the port prints goes to the standard error, as long as it is not endless."""
        assert process.stderr
        written = iter(lambda: process.stderr.readline(10_000), "")  # type: ignore[union-attr]
        for number, line in enumerate(written, 1):
            lines.append(line.rstrip("\n"))
            with contextlib.suppress(OSError, ValueError):
                if number <= LOUD:
                    sys.stderr.write(line)
                    sys.stderr.flush()
                elif number == LOUD + 1:
                    sys.stderr.write(
                        f"gc-conformance: {self.target} prints more than {LOUD} lines; the rest is left out\n"
                    )

    def _say(self, question: dict) -> None:
        assert self._process and self._process.stdin
        with contextlib.suppress(OSError):  # it has ended: reading says so
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()

    def _hear(self) -> dict | None:
        """The next answer; None when the process ends, which it does by itself when a call takes too long."""
        assert self._process and self._process.stdout
        line = self._process.stdout.readline()
        try:
            return json.loads(line) if line else None
        except json.JSONDecodeError:
            return None

    def _reap(self) -> str:
        """End what is left of the process, and say how it ended."""
        process = self._process
        assert process
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
        self._kill()
        code = process.returncode
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):
                return f"its process was ended by {signal.Signals(-code).name}"
        return f"its process has ended with exit code {code}"

    def _tail(self) -> str:
        self._reader.join(1)
        return "\n".join(["the last lines that it wrote:", *self._lines]) if self._lines else ""

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.name == "posix":
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
        process.wait()
        self._reader.join(1)
        for pipe in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
