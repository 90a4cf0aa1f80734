# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the Compose loader answers: a project, its problems, its variables, and the place of everything.

PRIVATE: internal to the collection, may change in any release.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ansible_collections.mcpstack.platform.plugins.module_utils import _compose_values as values
from ansible_collections.mcpstack.platform.plugins.module_utils._compose_yaml import LINE_BITS, LINE_MASK, Map, Seq

#: Kinds of problems. All but the last three are what Compose refuses.
KINDS = (
    "yaml",  # not YAML, duplicate keys, keys that are no text, tags nobody may use
    "file",  # a compose file, include, extends or env_file that is missing or cannot be read
    "key",  # a key or name Compose does not know
    "type",  # a value of a wrong type
    "value",  # a value of the right type that cannot be: a port, a mount, a number, a name
    "variable",  # a required variable without a value, or a ${…} that cannot be read
    "reference",  # a service, network, volume, secret or config that is not defined
    "cycle",  # include, extends, depends_on or an anchor that ends in itself
    "conflict",  # settings that exclude each other, include against include, container_name with replicas
    "profile",  # depends_on a service that is not enabled by the same profile
    "newer",  # a key that only a later Compose than the reference knows
    "limit",  # more than this loader reads: alias bombs, deep nesting, too many files
    "unknown",  # a file that is not among the files at hand; it may well be there
)


@dataclass(frozen=True)
class Problem:
    """What Compose refuses (or this loader cannot know): where ("file:line"), what is wrong, what to do, and its kind."""

    where: str
    what: str
    fix: str
    kind: str


@dataclass(frozen=True)
class Variable:
    """One use of a variable in a compose file.

    kind: plain ($A, ${A}), default (${A:-d}, ${A-d}), required (${A:?e}, ${A?e}), alternative (${A:+a}, ${A+a}), or
        inherited (an ``environment`` entry without a value).
    default: the text after the operator, as written; None for plain and inherited. set: it has a value, in ``env`` or .env.
    service is "" outside of services; keypath is what comes below the service, or the whole path outside of services.
    """

    name: str
    where: str
    kind: str
    default: str | None
    set: bool
    service: str
    keypath: tuple


@dataclass(frozen=True)
class EnvEntry:
    """One assignment of an env file, as Compose reads it.

    value: None for a bare name that nothing gives a value. quote is "'", '"' or "". raw: the value as written.
    shadowed: a later line of the same file gives the same name.
    """

    name: str
    value: str | None
    where: str
    quote: str = ""
    raw: str = ""
    shadowed: bool = False


@dataclass
class Project:
    """The project as Compose sees it, for all profiles at once.

    services, networks, volumes, secrets, configs: by name, merged, interpolated and in Compose's long form (ports, volumes,
    depends_on, networks, env_file, secrets, configs, devices, build are always mappings or lists of mappings; environment,
    labels, sysctls, annotations are mappings; host paths are absolute). Numbers with units, durations, commands and
    booleans stay as written: read them through ``_compose_values``. Do not change them.
    files: every compose file that was read, in order. dotenv: the entries of .env or of ``env_files``.
    profiles: every profile that a service names, sorted.
    """

    name: str = ""
    directory: str = ""
    files: list[str] = field(default_factory=list)
    services: dict[str, dict] = field(default_factory=dict)
    networks: dict[str, dict] = field(default_factory=dict)
    volumes: dict[str, dict] = field(default_factory=dict)
    secrets: dict[str, dict] = field(default_factory=dict)
    configs: dict[str, dict] = field(default_factory=dict)
    extensions: dict[str, object] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    variables: list[Variable] = field(default_factory=list)
    dotenv: list[EnvEntry] = field(default_factory=list)
    profiles: tuple[str, ...] = ()

    _selected: tuple[str, ...] = ()
    _sections: dict[str, Map] = field(default_factory=dict)
    _env_entries: dict[str, list[EnvEntry]] = field(default_factory=dict)
    _env: dict[str, str] = field(default_factory=dict)

    def where(self, service: str, *keypath: str | int) -> str:
        """'file:line' of what decided this value after the merge; of its nearest parent where it has no place."""
        return self.place("services", service, *keypath)

    def place(self, section: str, *keypath: str | int) -> str:
        """The same for any section: place("networks", "data", "internal")."""
        node: object = self._sections.get(section)
        found = node.place if isinstance(node, Map) else 0
        for key in keypath:
            if isinstance(node, Map) and key in node.lines:
                found = node.lines[key]
                node = node.get(key)
            elif isinstance(node, Seq) and isinstance(key, int) and -len(node.lines) <= key < len(node.lines):
                found = node.lines[key]
                node = node[key] if key < len(node) else None
            else:
                break
        return self._shown(found)

    def _shown(self, place: int) -> str:
        number = place >> LINE_BITS
        name = self.files[number] if number < len(self.files) else ""
        return f"{name}:{max(place & LINE_MASK, 1)}"

    def active(self, profiles: Iterable[str] | None = None) -> set[str]:
        """Names of the services these profiles start ("*" is all); None: those of ``load`` or COMPOSE_PROFILES."""
        chosen = set(self._selected if profiles is None else profiles)
        if "*" in chosen:
            return set(self.services)
        return {
            name
            for name, service in self.services.items()
            if not service.get("profiles") or not chosen.isdisjoint(service["profiles"])
        }

    def env_file_entries(self, service: str) -> list[EnvEntry]:
        """Every assignment of the service's env files, in order; a missing file is a problem already."""
        return self._env_entries.get(service, [])

    def environment(self, service: str) -> dict[str, str | None]:
        """What the container gets: env files, then ``environment``. None: not known here."""
        found: dict[str, str | None] = {}
        for entry in self.env_file_entries(service):
            if entry.value is not None:
                found[entry.name] = entry.value
        found.update(values.environment(self.services.get(service, {})))
        return found
