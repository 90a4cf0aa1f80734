# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""CycloneDX bill of materials of an image. PRIVATE, may change at any time."""

from __future__ import annotations

import json
import urllib.parse
import uuid


def _quote(text: str) -> str:
    return urllib.parse.quote(text, safe="")


def deb_component(package: dict, distribution: str) -> dict:
    """One Debian package of a lock file."""
    purl = (
        f"pkg:deb/debian/{_quote(package['name'])}@{_quote(package['version'])}"
        f"?arch={package['architecture']}&distro={_quote(distribution)}"
    )
    return {
        "type": "library",
        "bom-ref": purl,
        "name": package["name"],
        "version": package["version"],
        "purl": purl,
        "hashes": [{"alg": "SHA-256", "content": package["sha256"]}],
        "properties": [
            {"name": "mcpstack:suite", "value": package["suite"]},
            {"name": "mcpstack:source", "value": f"{package['source']} {package['source_version']}"},
        ],
    }


def wheel_component(wheel: dict) -> dict:
    """One Python wheel."""
    purl = f"pkg:pypi/{_quote(wheel['name'])}@{_quote(wheel['version'])}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": wheel["name"],
        "version": wheel["version"],
        "purl": purl,
        "hashes": [{"alg": "SHA-256", "content": wheel["sha256"]}],
    }


def document(image: dict, packages: list[dict], wheels: list[dict], distribution: str) -> bytes:
    """The whole document; the same image gives the same bytes."""
    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, image['id'])}",
        "version": 1,
        "metadata": {
            "timestamp": image["created"],
            "component": {
                "type": "container",
                "bom-ref": image["ref"],
                "name": image["ref"].split(":")[0],
                "version": image["ref"].split(":")[1],
                "hashes": [{"alg": "SHA-256", "content": image["id"][7:]}],
            },
        },
        "components": [deb_component(package, distribution) for package in packages]
        + [wheel_component(wheel) for wheel in wheels],
    }
    return json.dumps(bom, indent=1, sort_keys=True).encode() + b"\n"
