# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The upper half of the report's page: scores, numbers and how they went over time, and what all parts are made of.

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

import html
import re

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import SEVERITIES
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_report import WAIVERS, Report, parse_time

#: Statuses in the order in which they are shown.
ORDER = ("pass", "fail", "waived", "unknown", "not_applicable")
WORDS = {"pass": "pass", "fail": "fail", "unknown": "unknown", "waived": "waived", "not_applicable": "not applicable"}
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def e(value: object) -> str:
    """Text for the page, in content and in attributes."""
    return html.escape(str(value), quote=True)


def number_of(count: int, word: str, plural: str | None = None) -> str:
    return f"{count:,} {word if count == 1 else plural or word + 's'}"


def when(generated: str) -> str:
    """21 Nov 2026, 05:15 UTC."""
    if parse_time(generated) is None:
        return e(generated)
    text = f"{int(generated[8:10])} {_MONTHS[int(generated[5:7]) - 1]} {generated[:4]}, {generated[11:16]} UTC"
    return f'<time datetime="{e(generated)}">{text}</time>'


def day(generated: str) -> str:
    return f"{int(generated[8:10])} {_MONTHS[int(generated[5:7]) - 1]}" if parse_time(generated) is not None else ""


def anchor_of(check_id: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", check_id)


def chip(severity: str) -> str:
    return f'<span class="chip bg-{severity}">{severity.capitalize()}</span>'


def tag(status: str) -> str:
    return f'<span class="tag t-{status}">{WORDS[status]}</span>'


def share_bar(parts: list[tuple[str, int]], label: str) -> str:
    """A bar in shares, each (class, number)."""
    total = sum(number for _name, number in parts)
    if not total:
        return ""
    drawn, at = [], 0.0
    for name, number in parts:
        if number:
            width = 1000 * number / total
            drawn.append(f'<rect class="f-{name}" x="{at:.1f}" y="0" width="{max(width - 3, 1):.1f}" height="10"/>')
            at += width
    return (
        f'<svg class="bar" viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" aria-label="{e(label)}">'
        f"{''.join(drawn)}</svg>"
    )


def legend(counts: dict) -> str:
    shown = "".join(
        f'<li><svg viewBox="0 0 10 10" aria-hidden="true"><circle class="f-{status}" cx="5" cy="5" r="5"/></svg>'
        f"<span><b>{counts[status]:,}</b> {WORDS[status]}</span></li>"
        for status in ORDER
    )
    return f'<ul class="legend">{shown}</ul>'


def _ring(report: Report) -> str:
    around = 2 * 3.14159265 * 52
    filled = around * (report.score or 0) / 100
    arc = (
        f'<circle class="arc s-{report.summary["highest"]}" cx="60" cy="60" r="52" stroke-width="10"'
        f' stroke-dasharray="{filled:.1f} {around:.1f}" transform="rotate(-90 60 60)"/>'
        if report.score
        else ""
    )
    shown = "–" if report.score is None else str(report.score)
    label = "no score" if report.score is None else f"Score {report.score} of 100"
    earlier = report.trend[-2]["score"] if len(report.trend) > 1 else None
    moved = ""
    if earlier is not None and report.score is not None:
        step = report.score - earlier
        moved = f"{'up' if step > 0 else 'down'} {abs(step)} since the run before" if step else "as in the run before"
    return (
        '<div class="card"><h3>Score</h3><div class="ring">'
        f'<svg viewBox="0 0 120 120" role="img" aria-label="{label}"><circle class="track" cx="60" cy="60" r="52"'
        f' stroke-width="10"/>{arc}<text x="60" y="72">{shown}</text></svg>'
        f'<div><p class="small">of 100{f", {moved}" if moved else ""}</p><p class="small"><a href="#score">How it is calculated</a></p></div>'
        "</div></div>"
    )


def overview(report: Report) -> str:
    numbers = report.summary
    tiles = "".join(
        f'<div><dt><span class="dot bg-{name}"></span>{name.capitalize()}</dt><dd class="big">{numbers[name]:,}</dd></div>'
        for name in SEVERITIES[:4]
    )
    states = {status: sum(entry["counts"][status] for entry in report.audited) for status in ORDER}
    decided = states["pass"] + states["fail"] + states["waived"]
    if report.compared_with:
        change = "".join(
            f'<div><dt>{name}</dt><dd class="big">{number:,}</dd></div>'
            for name, number in (
                ("New", numbers["new"]),
                ("Fixed", numbers["fixed"]),
                ("Still open", sum(item["state"] == "open" for item in report.open())),
            )
        )
        change = f'<dl class="tiles three">{change}</dl>'
    else:
        change = (
            '<p class="small">This is the first run. From the second on, this says what is new and what is fixed.</p>'
        )
    info = f", {number_of(numbers['info'], 'for information', 'for information')}" if numbers["info"] else ""
    waived = f"{number_of(numbers['waived'], 'finding')} waived" if numbers["waived"] else "nothing waived"
    return (
        '<section id="overview"><h2 class="sr">Overview</h2>\n<div class="grid hero">'
        + _ring(report)
        + f'<div class="card wide"><h3>Open findings</h3><dl class="tiles">{tiles}</dl>'
        + share_bar([(name, numbers[name]) for name in SEVERITIES], "Open findings by severity")
        + f'<p class="small">{waived}{info}</p></div>'
        + f'<div class="card"><h3>Since the run before</h3>{change}<p class="small"><a href="#changes">What changed</a></p>'
        + f'</div></div>\n<div class="grid">{_audited(report)}</div>\n<div class="grid two">{_trend(report)}'
        + '<div class="card col"><h3>Checks</h3>'
        + f'<p class="small">{decided:,} of {decided + states["unknown"]:,} that apply were decided.</p>'
        + f"{share_bar(list(states.items()), 'Checks by status')}{legend(states)}"
        + '<p class="small"><a href="#undecided">What was not decided, and why</a></p>'
        + "</div></div></section>\n"
    )


def _points(values: list[tuple[int, int]], width: float, height: float, left: float, top: float) -> list[tuple]:
    """(time, score) as places in a drawing."""
    first, last = values[0][0], values[-1][0]
    span = max(last - first, 1)
    return [(left + width * (when - first) / span, top + height * (100 - value) / 100) for when, value in values]


def _values(report: Report, name: str | None) -> list[tuple[int, int]]:
    found = []
    for entry in report.trend:
        value = entry["score"] if name is None else entry["scores"].get(name)
        moment = parse_time(entry["generated"])
        if value is not None and moment is not None:
            found.append((moment, value))
    return sorted(found)


def _line(points: list[tuple]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _audited(report: Report) -> str:
    rows = []
    for entry in report.audited:
        counts, numbers = entry["counts"], entry["summary"]
        decided = counts["pass"] + counts["fail"] + counts["waived"]
        values = _values(report, entry["name"])
        spark = '<span class="small">–</span>'
        if len(values) > 1:
            spark = (
                f'<svg class="spark" viewBox="0 0 96 26" preserveAspectRatio="none" role="img" aria-label="Score from'
                f' {values[0][1]} to {values[-1][1]} over {len(values)} runs"><polyline points="'
                f'{_line(_points(values, 92, 20, 2, 3))}"/></svg>'
            )
        worst = " ".join(
            f'<span class="chip bg-{name}">{numbers[name]:,} {name}</span>' for name in SEVERITIES[:4] if numbers[name]
        )
        waived = f' <span class="tag t-waived">{numbers["waived"]} waived</span>' if numbers["waived"] else ""
        shown = "–" if entry["score"] is None else entry["score"]
        rows.append(
            f'<tr><th scope="row" class="names"><bdi>{e(entry["name"])}</bdi></th><td class="n"><strong>{shown}</strong></td>'
            f'<td class="n small left">{decided} of {decided + counts["unknown"]} decided</td><td>{spark}</td>'
            f'<td class="full">{worst or "<span class=small>no open finding</span>"}{waived}</td></tr>'
        )
    head = '<th scope="col">Audited</th><th scope="col" class="n">Score</th>'
    head += (
        '<th scope="col" class="n">Checks</th><th scope="col">Score over time</th><th scope="col">Open findings</th>'
    )
    return (
        '<div class="card"><h3>What was audited</h3><div class="scroll" tabindex="0" role="region"'
        f' aria-label="What was audited"><table class="stack"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody>'
        "</table></div></div>"
    )


def _trend(report: Report) -> str:
    values = _values(report, None)
    if len(values) < 2:
        return (
            '<div class="card"><h3>Score over time</h3><p class="small">The chart begins with the second run that has a'
            " score.</p></div>"
        )
    left, top, width, height = 46, 14, 540, 176
    points = _points(values, width, height, left, top)
    lines = "".join(
        f'<line x1="{left}" x2="{left + width}" y1="{top + height * (100 - mark) / 100:.1f}"'
        f' y2="{top + height * (100 - mark) / 100:.1f}"/><text x="{left - 8}"'
        f' y="{top + height * (100 - mark) / 100 + 5:.1f}" text-anchor="end">{mark}</text>'
        for mark in (0, 50, 100)
    )
    base = top + height
    area = f"{points[0][0]:.1f},{base} {_line(points)} {points[-1][0]:.1f},{base}"
    end = points[-1]
    above = end[1] - 12 if end[1] > 50 else end[1] + 26
    shown = [entry for entry in report.trend if parse_time(entry["generated"]) is not None]
    chart = (
        f'<svg class="chart" viewBox="0 0 600 226" role="img" aria-label="Score over {len(values)} runs: first'
        f' {values[0][1]}, now {values[-1][1]} of 100">{lines}<polygon class="area" points="{area}"/>'
        f'<polyline points="{_line(points)}"/>'
        f'<circle cx="{end[0]:.1f}" cy="{end[1]:.1f}" r="4.5"/><text class="val" x="{end[0] - 4:.1f}" y="{above:.1f}"'
        f' text-anchor="end">{values[-1][1]}</text>'
        f'<text x="{left}" y="221">{day(shown[0]["generated"])}</text>'
        f'<text x="{left + width}" y="221" text-anchor="end">{day(shown[-1]["generated"])}</text></svg>'
    )
    names = [entry["name"] for entry in report.audited if entry["name"] != WAIVERS][:8]
    head = '<th scope="col">Run</th><th scope="col" class="n">All</th>'
    head += "".join(f'<th scope="col" class="n"><bdi>{e(name)}</bdi></th>' for name in names)
    head += "".join(f'<th scope="col" class="n">{name.capitalize()}</th>' for name in SEVERITIES[:4])
    rows = []
    for entry in reversed(shown[-30:]):
        scores = [entry["score"], *(entry["scores"].get(name) for name in names)]
        cells = "".join(f'<td class="n">{"–" if value is None else value}</td>' for value in scores)
        cells += "".join(f'<td class="n">{entry["open"][name]:,}</td>' for name in SEVERITIES[:4])
        rows.append(f'<tr><th scope="row">{when(entry["generated"])}</th>{cells}</tr>')
    return (
        f'<div class="card"><h3>Score over time</h3>{chart}<details class="more"><summary>Figures</summary>'
        '<div class="scroll" tabindex="0" role="region" aria-label="Figures of earlier runs"><table><thead><tr>'
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></details></div>"
    )
