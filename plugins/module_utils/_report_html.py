# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report as one page that needs nothing beside itself. PRIVATE: may change in any release.

Everything that comes from an audit goes through ``e``. The policy in the page's head lets only its own style and script
run, each by its hash, and lets nothing be fetched; there is no link that leaves the page.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import SEVERITIES
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_report import (
    WAIVERS,
    WEIGHTS,
    Report,
    parse_time,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._report_page import SCRIPT, STYLE

_ORDER = ("pass", "fail", "waived", "unknown", "not_applicable")
_WORDS = {"pass": "pass", "fail": "fail", "unknown": "unknown", "waived": "waived", "not_applicable": "not applicable"}
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_NUMBERED = re.compile(r"((?:[0-9]{1,4}[.])*)([0-9]{1,4})")
#: A group opens by itself when its findings are this bad, or new.
_OPEN = ("critical", "high")
#: How many findings may stand open at once; a page of a thousand opens closed.
_OPEN_LIMIT = 120


def e(value: object) -> str:
    """Text for the page, in content and in attributes."""
    return html.escape(str(value), quote=True)


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def _number(count: int, word: str, plural: str | None = None) -> str:
    return f"{count:,} {word if count == 1 else plural or word + 's'}"


def _when(generated: str) -> str:
    """21 Nov 2026, 05:15 UTC."""
    if parse_time(generated) is None:
        return e(generated)
    text = f"{int(generated[8:10])} {_MONTHS[int(generated[5:7]) - 1]} {generated[:4]}, {generated[11:16]} UTC"
    return f'<time datetime="{e(generated)}">{text}</time>'


def _day(generated: str) -> str:
    return f"{int(generated[8:10])} {_MONTHS[int(generated[5:7]) - 1]}" if parse_time(generated) is not None else ""


def _anchor(check_id: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", check_id)


def _chip(severity: str) -> str:
    return f'<span class="chip bg-{severity}">{severity.capitalize()}</span>'


def _tag(status: str) -> str:
    return f'<span class="tag t-{status}">{_WORDS[status]}</span>'


def _bar(parts: list[tuple[str, int]], label: str) -> str:
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


# -- head and overview --------------------------------------------------------------------------------------------


def _verdict(report: Report) -> str:
    numbers = report.summary
    if not report.checks:
        return "Nothing was audited."
    worst = [f"{numbers[name]:,} {name}" for name in ("critical", "high") if numbers[name]]
    if not numbers["open"]:
        text = "No finding is open"
    else:
        text = f"{_number(numbers['open'], 'finding')} {'is' if numbers['open'] == 1 else 'are'} open"
        text += f", {' and '.join(worst)}" if worst else ", none of them critical or high"
    left = sum(len(group["checks"]) for group in report.undecided)
    if left:
        text += f". {_number(left, 'check')} could not be decided"
    return text + "."


def _head(report: Report) -> str:
    policy = (
        f"default-src 'none'; style-src {_hash(STYLE)}; script-src {_hash(SCRIPT)}; base-uri 'none'; form-action 'none'"
    )
    compared = (
        f"compared with {_when(report.compared_with)}"
        if report.compared_with
        else "the first run, nothing to compare with"
    )
    links = [("overview", "Overview"), ("findings", "Findings"), ("changes", "Changes")]
    links += [("standards", "Standards")] if report.standards else []
    links += [("undecided", "Not decided"), ("checks", "All checks")]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{e(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="referrer" content="no-referrer">\n'
        f'<meta name="color-scheme" content="light dark">\n<title>{e(report.title)}</title>\n<style>{STYLE}</style>\n</head>\n'
        '<body>\n<a class="skip" href="#findings">Skip to the findings</a>\n'
        f'<header class="wrap top"><h1>{e(report.title)}</h1>\n<p class="verdict">{_verdict(report)}</p>\n'
        f"<p>{_when(report.generated)}, {compared}</p></header>\n"
        '<nav aria-label="Sections"><ul class="wrap">'
        + "".join(f'<li><a href="#{name}">{text}</a></li>' for name, text in links)
        + '</ul></nav>\n<main class="wrap">\n'
    )


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


def _overview(report: Report) -> str:
    numbers = report.summary
    tiles = "".join(
        f'<div><dt><span class="dot bg-{name}"></span>{name.capitalize()}</dt><dd class="big">{numbers[name]:,}</dd></div>'
        for name in SEVERITIES[:4]
    )
    states = {status: sum(entry["counts"][status] for entry in report.audited) for status in _ORDER}
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
    info = f", {_number(numbers['info'], 'for information', 'for information')}" if numbers["info"] else ""
    waived = f"{_number(numbers['waived'], 'finding')} waived" if numbers["waived"] else "nothing waived"
    return (
        '<section id="overview"><h2 class="sr">Overview</h2>\n<div class="grid hero">'
        + _ring(report)
        + f'<div class="card wide"><h3>Open findings</h3><dl class="tiles">{tiles}</dl>'
        + _bar([(name, numbers[name]) for name in SEVERITIES], "Open findings by severity")
        + f'<p class="small">{waived}{info}</p></div>'
        + f'<div class="card"><h3>Since the run before</h3>{change}<p class="small"><a href="#changes">What changed</a></p>'
        + f'</div></div>\n<div class="grid">{_audited(report)}</div>\n<div class="grid two">{_trend(report)}'
        + '<div class="card col"><h3>Checks</h3>'
        + f'<p class="small">{decided:,} of {decided + states["unknown"]:,} that apply were decided.</p>'
        + f"{_bar(list(states.items()), 'Checks by status')}{_legend(states)}"
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
        f'<text x="{left}" y="221">{_day(shown[0]["generated"])}</text>'
        f'<text x="{left + width}" y="221" text-anchor="end">{_day(shown[-1]["generated"])}</text></svg>'
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
        rows.append(f'<tr><th scope="row">{_when(entry["generated"])}</th>{cells}</tr>')
    return (
        f'<div class="card"><h3>Score over time</h3>{chart}<details class="more"><summary>Figures</summary>'
        '<div class="scroll" tabindex="0" role="region" aria-label="Figures of earlier runs"><table><thead><tr>'
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></details></div>"
    )


# -- findings -----------------------------------------------------------------------------------------------------


def _groups(findings: list[dict]) -> list[list[dict]]:
    """Findings of one check and severity together, worst first."""
    groups: dict[tuple, list[dict]] = {}
    for item in findings:
        groups.setdefault((item["severity"], item["id"], item["title"]), []).append(item)
    return list(groups.values())


def _place(item: dict, fix: str, number: dict[str, int]) -> str:
    state = "waived" if item["waived"] else item["state"] or "open"
    badges = '<span class="tag t-new">new</span>' if state == "new" else ""
    waived = item["waived"]
    of = f'<span class="small"><bdi>{e(item["audited"])}</bdi></span>' if len(number) > 1 else ""
    why = ""
    if waived:
        why = f'<p class="why">Waived until {e(waived["expires"])}: <bdi>{e(waived["reason"])}</bdi></p>'
    if item["fix"] != fix:
        why += f'<p class="why"><strong>Fix:</strong> <bdi>{e(item["fix"])}</bdi></p>'
    return (
        f'<li class="place" data-a="{number[item["audited"]]}" data-t="{state}"><p class="line"><strong><bdi>'
        f'{e(item["subject"])}</bdi></strong><code>{e(item["where"])}</code>{of}{badges}</p><code class="seen">{e(item["evidence"])}</code>{why}</li>'
    )


def _group(items: list[dict], check: dict | None, standards: list[str], number: dict, anchor: str, opened: bool) -> str:
    first = items[0]
    fix = first["fix"]
    std = [str(n) for n, name in enumerate(standards) if any(r.startswith(name + " ") for r in first["references"])]
    places = _number(len(items), "place")
    new = ' <span class="tag t-new">new</span>' if any(item["state"] == "new" for item in items) else ""
    more = ""
    if check and check["what"]:
        more = f'<p class="small">{e(check["what"])}</p>'
        if check["failing"]:
            more += (
                f'<div class="examples"><div><h4>Fails</h4><pre>{e(check["failing"])}</pre></div>'
                f"<div><h4>Passes</h4><pre>{e(check['fixed'])}</pre></div></div>"
            )
        more = f'<details class="more"><summary>What is checked</summary>{more}</details>'
    references = "".join(f"<li>{e(reference)}</li>" for reference in first["references"])
    references = f'<ul class="refs" aria-label="References">{references}</ul>' if references else ""
    return (
        f'<details class="group b-{first["severity"]}"{f" id={chr(34)}{anchor}{chr(34)}" if anchor else ""}'
        f' data-s="{first["severity"]}" data-std="{" ".join(std)}"{" open" if opened else ""}><summary><span class="head">'
        f'{_chip(first["severity"])}<span class="id">{e(first["id"])}</span><span role="heading" aria-level="3"><strong>'
        f'{e(first["title"])}</strong></span><span class="small count" data-all="{places}">{places}</span>{new}</span>'
        f'</summary><div class="body"><ul>{"".join(_place(item, fix, number) for item in items)}</ul>'
        f'<div class="fix"><h4>Fix</h4><p>{e(fix)}</p></div><div class="meta">{references}{more}</div></div></details>\n'
    )


def _filter(report: Report, standards: list[str]) -> str:
    severities = [name for name in SEVERITIES if any(item["severity"] == name for item in report.findings)]
    checks = "".join(
        f'<label class="sev"><input type="checkbox" name="sev" value="{name}" checked><span><span class="dot bg-{name}">'
        f"</span>{name.capitalize()}</span></label>"
        for name in severities
    )

    def pick(name: str, label: str, options: list[tuple[str, str]]) -> str:
        shown = "".join(f'<option value="{value}">{e(text)}</option>' for value, text in options)
        return (
            f'<div class="pick"><label class="l" for="{name}">{label}</label><select id="{name}" name="{name}">{shown}'
            "</select></div>"
        )

    audited = [("", "Everything")] + [(str(n), entry["name"]) for n, entry in enumerate(report.audited)]
    states = [("", "All"), ("open", "Open"), ("new", "New"), ("waived", "Waived")]
    return (
        '<form id="filter" role="search" aria-label="Filter the findings" hidden><div class="grow"><label class="l" for="q">'
        'Search</label><input type="search" id="q" name="q" autocomplete="off" spellcheck="false"></div>'
        f"<fieldset><legend>Severity</legend>{checks}</fieldset>"
        + pick("audited", "Audited", audited)
        + pick("state", "State", states)
        + pick("standard", "Standard", [("", "Any")] + [(str(n), name) for n, name in enumerate(standards)])
        + "</form>\n"
        '<div class="status js" hidden><p class="small" id="shown" role="status"></p><p><button type="reset" form="filter">'
        'Clear the filter</button> <button type="button" id="openall">Open all</button> <button type="button" id="closeall">'
        "Close all</button></p></div>\n"
    )


def _findings(report: Report) -> str:
    standards = [view["name"] for view in report.standards]
    number = {entry["name"]: n for n, entry in enumerate(report.audited)}
    checks = {check["id"]: check for check in report.checks}
    used: set[str] = set()
    parts = {}
    for name, items in (("open", report.open()), ("waived", report.waived())):
        out, shown = [], 0
        for group in _groups(items):
            anchor = _anchor(group[0]["id"])
            new = any(item["state"] == "new" for item in group)
            shown += len(group)
            opened = name == "open" and (group[0]["severity"] in _OPEN or new) and shown <= _OPEN_LIMIT
            out.append(
                _group(group, checks.get(group[0]["id"]), standards, number, "" if anchor in used else anchor, opened)
            )
            used.add(anchor)
        parts[name] = "".join(out)
    empty = "No finding is open." if report.checks else "Nothing was audited."
    text = '<section id="findings" data-list><h2>Findings</h2>\n'
    if report.findings:
        text += _filter(report, standards)
        text += parts["open"] + f'<p class="none empty"{" hidden" if report.open() else ""}>No open finding here.</p>'
    else:
        text += f'<p class="none">{empty}</p>'
    text += "</section>\n"
    if report.waived():
        text += (
            '<section id="waived" data-list><h2>Waived</h2><p>Findings that somebody accepted, with a reason and until a'
            f" day. They neither stop anything nor count as passed.</p>{parts['waived']}"
            '<p class="none empty" hidden>No waived finding here.</p></section>\n'
        )
    return text


def _short(item: dict) -> str:
    return (
        f'<li><p class="line">{_chip(item["severity"])}<span class="small">{e(item["id"])}</span><strong>{e(item["title"])}'
        f'</strong></p><p class="line small"><bdi>{e(item["subject"])}</bdi><code>{e(item["where"])}</code><bdi>'
        f"{e(item['audited'])}</bdi></p></li>"
    )


def _changes(report: Report) -> str:
    text = '<section id="changes"><h2>Changes</h2>'
    if not report.compared_with:
        return text + "<p>This is the first run. The next one is held against it.</p></section>\n"
    text += f"<p>Held against the run of {_when(report.compared_with)}.</p>"
    if report.first_audited:
        names = ", ".join(f"<bdi>{e(name)}</bdi>" for name in report.first_audited)
        text += f"<p>Audited for the first time, and therefore with nothing to compare: {names}.</p>"
    blocks = [
        ("New", report.new(), "Nothing new was found."),
        ("Fixed", report.fixed, "Nothing was fixed."),
    ]
    text += '<div class="grid two">'
    for name, items, nothing in blocks:
        inside = f'<ul class="list">{"".join(map(_short, items))}</ul>' if items else f'<p class="small">{nothing}</p>'
        text += f'<div class="card"><h3>{name} ({len(items):,})</h3>{inside}</div>'
    text += "</div>"
    if report.unverified:
        text += (
            f'<div class="grid"><div class="card"><h3>Not verified ({len(report.unverified):,})</h3><p class="small">Open in'
            " an earlier run and not seen in this one, which did not decide the check to the end. They do not count as"
            f' fixed.</p><ul class="list">{"".join(map(_short, report.unverified))}</ul></div></div>'
        )
    return text + "</section>\n"


# -- standards, what was not decided, all checks ------------------------------------------------------------------


def _legend(counts: dict) -> str:
    shown = "".join(
        f'<li><svg viewBox="0 0 10 10" aria-hidden="true"><circle class="f-{status}" cx="5" cy="5" r="5"/></svg>'
        f"<span><b>{counts[status]:,}</b> {_WORDS[status]}</span></li>"
        for status in _ORDER
    )
    return f'<ul class="legend">{shown}</ul>'


def _ranges(sections: list[dict]) -> list[tuple[str, list[dict]]]:
    """Sections with their checks; neighbours that the same checks decide share a row."""
    rows: list[tuple[list[str], list[dict]]] = []
    for section in sections:
        name, checks = section["section"], section["checks"]
        if rows and [check["id"] for check in rows[-1][1]] == [check["id"] for check in checks]:
            before, number = _NUMBERED.fullmatch(rows[-1][0][-1]), _NUMBERED.fullmatch(name)
            if before and number and before[1] == number[1] and int(before[2]) + 1 == int(number[2]):
                rows[-1][0].append(name)
                continue
        rows.append(([name], checks))
    return [(names[0] if len(names) == 1 else f"{names[0]} – {names[-1]}", checks) for names, checks in rows]


def _standards(report: Report) -> str:
    if not report.standards:
        return ""
    linked = {item["id"] for item in report.findings}
    tabs, panels = "", ""
    for number, view in enumerate(report.standards):
        counts = view["counts"]
        tabs += (
            f'<input type="radio" name="standard" id="s{number}"{" checked" if not number else ""}><label for="s{number}">'
            f"{e(view['name'])}</label>"
        )
        rows = []
        for name, checks in _ranges(view["sections"]):
            inside = []
            for check in checks:
                title = f"{e(check['id'])} {e(check['title'])}"
                if check["id"] in linked:
                    title = f'<a href="#{_anchor(check["id"])}">{title}</a>'
                inside.append(f"<li><span>{_tag(check['status'])}</span><span>{title}</span></li>")
            rows.append(
                f'<tr><th scope="row" class="sect">{e(name)}</th><td><ul class="rows">{"".join(inside)}</ul></td></tr>'
            )
        panels += (
            f'<div class="panel p{number} card"><h3>{e(view["name"])}</h3>'
            + _bar([(status, counts[status]) for status in _ORDER], "Checks by status")
            + _legend(counts)
            + '<table><thead><tr><th scope="col">Section</th><th scope="col">Weakness looked for</th></tr></thead>'
            + f"<tbody>{''.join(rows)}</tbody></table></div>"
        )
    return (
        '<section id="standards"><h2>Standards</h2><p>Only sections that a check refers to are listed: a standard asks for'
        " more than a program can decide. Pass means: the weakness was looked for, and is not there.</p>"
        f'<div class="tabs" role="group" aria-label="Standard">{tabs}{panels}</div></section>\n'
    )


def _undecided(report: Report) -> str:
    text = '<section id="undecided"><h2>Not decided</h2>'
    if not report.undecided and not report.not_run:
        return text + "<p>Every check was decided or does not apply.</p></section>\n"
    text += "<p>What this run cannot vouch for, and why. None of it counts as passed.</p>"
    if report.undecided:
        rows = []
        for group in report.undecided:
            checks = "".join(
                f"<li><span>{_chip(check['severity'])}</span><span>{e(check['id'])} {e(check['title'])}"
                f"{' <span class=small>(in part)</span>' if check['partly'] else ''}</span></li>"
                for check in group["checks"]
            )
            rows.append(
                f'<tr><th scope="row" class="full"><bdi>{e(group["reason"])}</bdi></th><td class="full"><bdi>{e(group["audited"])}</bdi></td>'
                f'<td class="full"><ul class="rows sevs">{checks}</ul></td></tr>'
            )
        head = '<th scope="col">Reason</th><th scope="col">Audited</th><th scope="col" class="half">Checks</th>'
        text += (
            f'<div class="grid"><div class="card"><table class="stack"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}'
            "</tbody></table></div></div>"
        )
    if report.not_run:
        reasons: dict[str, list[dict]] = {}
        for check in report.not_run:
            reasons.setdefault(check["reason"], []).append(check)
        inside = ""
        for reason, checks in reasons.items():
            items = "".join(
                f"<li><span>{_chip(check['severity'])}</span><span>{e(check['id'])} {e(check['title'])}</span></li>"
                for check in checks
            )
            inside += f'<h4>{e(reason)}</h4><ul class="rows sevs">{items}</ul>'
        count = _number(len(report.not_run), "check was", "checks were")
        text += (
            f'<div class="grid"><div class="card"><details class="fold"><summary>{count} not part of this run</summary>'
            f"{inside}</details></div></div>"
        )
    return text + "</section>\n"


def _all_checks(report: Report) -> str:
    linked = {item["id"] for item in report.findings}
    rows = []
    for check in report.checks:
        reasons = [seen["reason"] for seen in check["seen"] if seen["reason"]] or [check.get("reason", "")]
        reason = "; ".join(dict.fromkeys(filter(None, reasons)))
        title = e(check["title"])
        if check["id"] in linked:
            title = f'<a href="#{_anchor(check["id"])}">{title}</a>'
        rows.append(
            f'<tr><th scope="row" class="key">{e(check["id"])}</th><td>{_tag(check["status"])}</td><td>{_chip(check["severity"])}</td>'
            f'<td class="full">{title}{f"<br><span class=small>{e(reason)}</span>" if reason else ""}</td></tr>'
        )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Check", "Status", "Severity", "Weakness looked for"))
    return (
        f'<section id="checks"><h2>All checks</h2><div class="grid"><div class="card"><details class="fold"><summary>'
        f"{_number(len(report.checks), 'check')} with what became of each</summary>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="All checks"><table><thead><tr>{head}</tr></thead><tbody>'
        f"{''.join(rows)}</tbody></table></div></details></div></div></section>\n"
    )


def _foot(report: Report) -> str:
    weights = ", ".join(f"{name} {weight}" for name, weight in WEIGHTS.items() if weight)
    return (
        '</main>\n<footer class="wrap" id="score"><p><strong>Score.</strong> The weighted share of the decided checks that'
        f" pass, rounded down. A check weighs by its severity: {weights}. What was not decided never counts as passed: it is"
        " left out and counted beside the score, as are checks of which every finding is waived.</p>"
        "<p><strong>The same finding</strong> is one of the same check, subject and place; a line that moved makes no new"
        " one. A finding counts as fixed only when its check was decided to the end.</p>"
        f"<p>Made by the collection mcpstack.platform on {_when(report.generated)}.</p></footer>\n"
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def write(report: Report) -> bytes:
    """report.html."""
    return "".join(
        (
            _head(report),
            _overview(report),
            _findings(report),
            _changes(report),
            _standards(report),
            _undecided(report),
            _all_checks(report),
            _foot(report),
        )
    ).encode("utf-8", "replace")
