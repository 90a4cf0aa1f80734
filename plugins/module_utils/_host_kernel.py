# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kernel settings and what they should be (HST-11).

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Files, Unreadable

ROOT = "/proc/sys"
SUBJECT = "host"


@dataclass(frozen=True)
class Row:
    """A setting, the values that pass, the severity otherwise, and who says so."""

    name: str
    accepted: tuple[str, ...]
    severity: str
    source: str


_KRNL = "lynis KRNL-6000"
_KERNEL_DOC = "kernel admin-guide/sysctl"
ROWS = (
    Row("kernel.kptr_restrict", ("1", "2"), "medium", _KRNL),
    Row("kernel.dmesg_restrict", ("1",), "medium", _KRNL),
    Row("kernel.yama.ptrace_scope", ("1", "2", "3"), "medium", _KRNL),
    Row("kernel.unprivileged_bpf_disabled", ("1", "2"), "medium", _KRNL),
    Row("kernel.randomize_va_space", ("2",), "medium", _KRNL),
    Row("fs.suid_dumpable", ("0",), "medium", _KRNL),
    Row("fs.protected_hardlinks", ("1",), "medium", _KRNL),
    Row("fs.protected_symlinks", ("1",), "medium", _KRNL),
    Row("fs.protected_fifos", ("1", "2"), "low", _KRNL),
    Row("fs.protected_regular", ("1", "2"), "low", _KRNL),
    Row("net.ipv4.conf.all.accept_source_route", ("0",), "medium", _KRNL),
    Row("net.ipv4.conf.all.accept_redirects", ("0",), "low", _KRNL),
    Row("net.ipv4.tcp_syncookies", ("1", "2"), "low", _KRNL),
)
#: Strict or loose; the larger of "all" and the interface counts.
RP_FILTER = Row("net.ipv4.conf.*.rp_filter", ("1", "2"), "medium", f"{_KRNL}, {_KERNEL_DOC}")


def _value(files: Files, name: str) -> str | None:
    path = f"{ROOT}/{name.replace('.', '/')}"
    if files.stat(path) is None:
        return None
    try:
        return files.read(path, 4096).decode("ascii", "replace").strip()
    except Unreadable:
        return None


def audit_kernel(audit: Audit, files: Files, declared: Mapping[str, Collection[str]]) -> None:
    """HST-11. declared: accepted values by name, in place of the table's; none passes a setting over."""
    if not files.names(ROOT):
        audit.unknown("HST-11", f"{ROOT} is not among the files at hand")
        return
    rows = {row.name: row for row in ROWS}
    for name, accepted in declared.items():
        known = rows.get(name) or Row(name, (), "medium", "")
        rows[name] = Row(name, tuple(str(value) for value in accepted), known.severity, "declared")
    seen = 0
    for row in rows.values():
        value = _value(files, row.name) if row.accepted else None
        if value is None:
            continue
        seen += 1
        if " ".join(value.split()) not in row.accepted:
            _report(audit, row, row.name, value)
    if RP_FILTER.name not in declared:
        seen += _reverse_path(audit, files)
    if seen:
        audit.decide("HST-11")
    else:
        audit.not_applicable("HST-11", "this kernel has none of the settings")


def _report(audit: Audit, row: Row, name: str, value: str) -> None:
    wanted = " or ".join(row.accepted)
    audit.find(
        "HST-11", SUBJECT, f"{ROOT}/{name.replace('.', '/')}", f"{name} = {value}, not {wanted} ({row.source})",
        severity=row.severity,
    )  # fmt: skip


def _reverse_path(audit: Audit, files: Files) -> int:
    """How many values were read."""
    values = {}
    for name in files.names(f"{ROOT}/net/ipv4/conf"):
        path = f"{ROOT}/net/ipv4/conf/{name}/rp_filter"
        if name == "lo" or files.stat(path) is None:
            continue
        try:
            values[name] = files.read(path, 64).decode("ascii", "replace").strip()
        except Unreadable:
            continue
    common = values.pop("all", "0")
    # what containers are given comes and goes; the default says how new ones start
    open_ones = sorted(
        name for name, value in values.items() if value == "0" and not name.startswith(("veth", "br-", "docker"))
    )
    if common == "0" and open_ones:
        audit.find(
            "HST-11", SUBJECT, f"{ROOT}/net/ipv4/conf/all/rp_filter",
            f"rp_filter = 0 for all and for {', '.join(open_ones)} ({RP_FILTER.source})", severity=RP_FILTER.severity,
        )  # fmt: skip
    return len(values)
