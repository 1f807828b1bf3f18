"""What people see of a run in a browser: one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from .report import IN_FULL, MARKS, again, configuration, count, rows
from .result import PropertyResult
from .verdict import Verdict

_CSS = """
:root { color-scheme: light dark; --bg: #fff; --fg: #1d1f23; --dim: #5c636e; --line: #d9dce1; --code: #f4f5f7;
        --ok: #1a7f37; --bad: #c01c28; --known: #8a5a00 }
@media (prefers-color-scheme: dark) { :root { --bg: #15171a; --fg: #e4e6ea; --dim: #9aa2ad; --line: #33373d;
        --code: #1f2226; --ok: #57c26e; --bad: #ff7b80; --known: #e3b341 } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem;
       background: var(--bg); color: var(--fg) }
h1 { font-size: 1.4rem } h2 { font-size: 1.2rem; margin-top: 2.5rem } h3 { font-size: 1rem; margin: 1.5rem 0 .3rem }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem } dt { color: var(--dim) } dd { margin: 0 }
table { border-collapse: collapse; width: 100%; font-size: .9rem }
td, th { text-align: left; vertical-align: top; padding: .25rem .6rem .25rem 0; border-bottom: 1px solid var(--line) }
td, dd, p { overflow-wrap: anywhere } td.status { white-space: nowrap } td.n { text-align: right }
tr.chapter td { font-weight: 600; padding-top: 1rem } .note { color: var(--dim) }
.passed { color: var(--ok) } .failed { color: var(--bad) } .known-failure { color: var(--known) }
.not-provided { color: var(--dim) } .diagnosis { font-style: italic } .verdict { font-size: 1.1rem; font-weight: 600 }
details { border-top: 1px solid var(--line); padding: .5rem 0 } summary { cursor: pointer }
details > p, details > pre { margin: .4rem 0 .4rem 1rem } summary > .failed { font-weight: 600 }
pre { background: var(--code); padding: .7rem; overflow-x: auto; font-size: .85rem }
"""


def html(verdicts: Sequence[Verdict]) -> str:
    """One page that needs nothing else: no script, no font, no link that it loads."""
    ports = escape(", ".join(verdict.result.port for verdict in verdicts))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Gradient Centralization: conformance of {ports}</title><style>{_CSS}</style></head>\n<body>"
        "<h1>Gradient Centralization: conformance</h1>\n"
        + "\n".join(_html_of(verdict) for verdict in verdicts)
        + "\n</body></html>\n"
    )


def _html_of(verdict: Verdict) -> str:
    echo = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in configuration(verdict).items())
    body = []
    for chapter, results, folded in rows(verdict):
        note = f'<span class="note">{escape(results[0].message)}</span>' if folded else ""
        body.append(
            f'<tr class="chapter"><td>{escape(chapter)}</td><td colspan="2">'
            f"{escape(count(verdict, results).plain)}</td><td>{note}</td></tr>"
        )
        body.extend(_html_row(verdict, result) for result in results if not folded)
    return (
        f'<section><h2>{escape(verdict.result.port)}</h2><p class="verdict {"passed" if verdict.ok else "failed"}">'
        f"{escape(verdict.sentence)}</p><dl>{echo}</dl>\n"
        + "".join(_html_cause(verdict, some, n < IN_FULL) for n, some in enumerate(verdict.causes.values()))
        + "".join(_html_known(verdict, result) for result in verdict.having("known failure"))
        + "<h3>All properties</h3><table><thead><tr><th>property</th><th>verdict</th><th>examples</th>"
        "<th>what must hold</th></tr></thead><tbody>" + "\n".join(body) + "</tbody></table></section>"
    )


def _html_row(verdict: Verdict, result: PropertyResult) -> str:
    status = verdict.status(result)
    why = result.message if status in ("passed", "not provided") else ""
    note = f'<br><span class="note">{escape(why)}</span>' if why else ""
    return (
        f'<tr><td>{escape(result.id)}</td><td class="status {status.replace(" ", "-")}">{MARKS[status]} {status}</td>'
        f'<td class="n">{result.examples or ""}</td><td>{escape(result.title)}{note}</td></tr>'
    )


def _html_cause(verdict: Verdict, some: Sequence[PropertyResult], opened: bool) -> str:
    """The first failure of a cause in full, and the others folded below it."""
    first, *others = some
    more = "".join(_html_failure(verdict, result, False) for result in others)
    folded = f"<details><summary>{len(others)} more for the same reason</summary>{more}</details>" if others else ""
    return _html_failure(verdict, first, opened, folded)


def _html_failure(verdict: Verdict, result: PropertyResult, opened: bool, more: str = "") -> str:
    said = [f"<p>{escape(result.message)}</p>"]
    if result.diagnosis:
        said.append(f'<p class="diagnosis">{escape(result.diagnosis)}</p>')
    if result.counterexample:
        said.append(f"<p>Smallest counterexample: <code>{escape(result.counterexample)}</code></p>")
    if result.details:
        said.append(f"<pre>{escape(result.details)}</pre>")
    if result.reproduce:
        said.append(f"<p>To reproduce, without the suite:</p><pre>{escape(result.reproduce)}</pre>")
    return (
        f'<details{" open" if opened else ""}><summary><span class="failed">{MARKS["failed"]} '
        f"{escape(result.id)}</span> {escape(result.title)}</summary>"
        + "".join(said)
        + f"<p>To judge it again:</p><pre>{escape(again(verdict, result))}</pre>{more}</details>\n"
    )


def _html_known(verdict: Verdict, result: PropertyResult) -> str:
    reason = verdict.known[result.id]
    # Only what is a web address becomes a link: a javascript: address would run.
    is_address = reason.link.startswith(("https://", "http://"))
    link = f'<a href="{escape(reason.link)}">{escape(reason.link)}</a>' if is_address else escape(reason.link)
    return (
        f'<h3 class="known-failure">{MARKS["known failure"]} {escape(result.id)}: known failure</h3>'
        f"<p>{escape(reason.cause)}{f' ({link})' if link else ''}</p>"
    )
