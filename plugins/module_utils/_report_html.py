# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report as one page that needs nothing beside itself. PRIVATE: may change in any release.

Everything that comes from an audit goes through ``e``. The policy in the page's head lets only its own style and script
run, each by its hash, and lets nothing be fetched; there is no link that leaves the page.
"""

from __future__ import annotations

import base64
import hashlib
import re

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import SEVERITIES
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_report import (
    WEIGHTS,
    Report,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._report_overview import (
    ORDER,
    anchor_of,
    chip,
    e,
    legend,
    number_of,
    overview,
    share_bar,
    tag,
    when,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._report_page import SCRIPT, STYLE

_NUMBERED = re.compile(r"((?:[0-9]{1,4}[.])*)([0-9]{1,4})")
#: A group opens by itself when its findings are this bad, or new.
_OPEN = ("critical", "high")
#: How many findings may stand open at once; a page of a thousand opens closed.
_OPEN_LIMIT = 120


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


# -- head and overview --------------------------------------------------------------------------------------------


def _verdict(report: Report) -> str:
    numbers = report.summary
    if not report.checks:
        return "Nothing was audited."
    worst = [f"{numbers[name]:,} {name}" for name in ("critical", "high") if numbers[name]]
    if not numbers["open"]:
        text = "No finding is open"
    else:
        text = f"{number_of(numbers['open'], 'finding')} {'is' if numbers['open'] == 1 else 'are'} open"
        text += f", {' and '.join(worst)}" if worst else ", none of them critical or high"
    left = sum(len(group["checks"]) for group in report.undecided)
    if left:
        text += f". {number_of(left, 'check')} could not be decided"
    return text + "."


def _head(report: Report) -> str:
    policy = (
        f"default-src 'none'; style-src {_hash(STYLE)}; script-src {_hash(SCRIPT)}; base-uri 'none'; form-action 'none'"
    )
    compared = (
        f"compared with {when(report.compared_with)}"
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
        f"<p>{when(report.generated)}, {compared}</p></header>\n"
        '<nav aria-label="Sections"><ul class="wrap">'
        + "".join(f'<li><a href="#{name}">{text}</a></li>' for name, text in links)
        + '</ul></nav>\n<main class="wrap">\n'
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
    places = number_of(len(items), "place")
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
        f'{chip(first["severity"])}<span class="id">{e(first["id"])}</span><span role="heading" aria-level="3"><strong>'
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
            anchor = anchor_of(group[0]["id"])
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
        f'<li><p class="line">{chip(item["severity"])}<span class="small">{e(item["id"])}</span><strong>{e(item["title"])}'
        f'</strong></p><p class="line small"><bdi>{e(item["subject"])}</bdi><code>{e(item["where"])}</code><bdi>'
        f"{e(item['audited'])}</bdi></p></li>"
    )


def _changes(report: Report) -> str:
    text = '<section id="changes"><h2>Changes</h2>'
    if not report.compared_with:
        return text + "<p>This is the first run. The next one is held against it.</p></section>\n"
    text += f"<p>Held against the run of {when(report.compared_with)}.</p>"
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
                    title = f'<a href="#{anchor_of(check["id"])}">{title}</a>'
                inside.append(f"<li><span>{tag(check['status'])}</span><span>{title}</span></li>")
            rows.append(
                f'<tr><th scope="row" class="sect">{e(name)}</th><td><ul class="rows">{"".join(inside)}</ul></td></tr>'
            )
        panels += (
            f'<div class="panel p{number} card"><h3>{e(view["name"])}</h3>'
            + share_bar([(status, counts[status]) for status in ORDER], "Checks by status")
            + legend(counts)
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
                f"<li><span>{chip(check['severity'])}</span><span>{e(check['id'])} {e(check['title'])}"
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
                f"<li><span>{chip(check['severity'])}</span><span>{e(check['id'])} {e(check['title'])}</span></li>"
                for check in checks
            )
            inside += f'<h4>{e(reason)}</h4><ul class="rows sevs">{items}</ul>'
        count = number_of(len(report.not_run), "check was", "checks were")
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
            title = f'<a href="#{anchor_of(check["id"])}">{title}</a>'
        rows.append(
            f'<tr><th scope="row" class="key">{e(check["id"])}</th><td>{tag(check["status"])}</td><td>{chip(check["severity"])}</td>'
            f'<td class="full">{title}{f"<br><span class=small>{e(reason)}</span>" if reason else ""}</td></tr>'
        )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Check", "Status", "Severity", "Weakness looked for"))
    return (
        f'<section id="checks"><h2>All checks</h2><div class="grid"><div class="card"><details class="fold"><summary>'
        f"{number_of(len(report.checks), 'check')} with what became of each</summary>"
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
        f"<p>Made by the collection mcpstack.platform on {when(report.generated)}.</p></footer>\n"
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def write(report: Report) -> bytes:
    """report.html."""
    return "".join(
        (
            _head(report),
            overview(report),
            _findings(report),
            _changes(report),
            _standards(report),
            _undecided(report),
            _all_checks(report),
            _foot(report),
        )
    ).encode("utf-8", "replace")
