# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The catalogue's rows about images. PRIVATE: internal to the collection, may change in any release.

``compose_audit`` decides what a compose file says of its images, ``image_audit`` what is in an image.
"""

from __future__ import annotations

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Check

_DIGEST = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

CHECKS: tuple[Check, ...] = (
    Check(
        "IMG-01", "Image is not pinned to what was tested", "medium", "SA",
        ("NIST SP 800-190 4.2.2", "OWASP Docker 13", "compose-lint CL-0019"),
        "Every image is named by digest, or, where pull_policy is never, by a tag that is derived from the image's own"
        " content. Where a lock file is given, the image has the id that it promises and holds exactly the packages that"
        " it lists. A tag alone can be"
        " moved to another image at any time.",
        "Write the image as NAME@sha256:DIGEST, or deploy the image that the lock file names; renew the lock when"
        " another image is meant.",
        "services:\n  cache:\n    image: valkey/valkey:8.1.3",
        f"services:\n  cache:\n    image: valkey/valkey:8.1.3@{_DIGEST}",
    ),
    Check(
        "IMG-02", "Image tag floats", "medium", "SA",
        ("CIS Docker 5.28", "compose-lint CL-0004", "hadolint DL3006", "hadolint DL3007",
         "semgrep avoid-latest-version"),
        "No image is taken by the tag latest, by no tag at all (which is latest), or by a tag that names less than a"
        " whole release, such as a major version. A digest beside the tag makes the tag a comment.",
        "Name the release you tested, with its digest.",
        "services:\n  edge:\n    image: nginx",
        f"services:\n  edge:\n    image: nginx:1.29.3@{_DIGEST}",
    ),
    Check(
        "IMG-03", "Image comes from a registry that was not allowed", "medium", "S",
        ("CIS Docker 4.2", "NIST SP 800-190 4.1.5", "hadolint DL3026"),
        "Where a list of allowed registries or repositories is given, every image is on it. A name without a host is"
        " Docker Hub's.",
        "Take the image from an allowed registry, or add its registry to the list after looking at who publishes there.",
        "services:\n  tool:\n    image: ghcr.io/somebody/tool:1.2.3",
        "services:\n  tool:\n    image: registry.example.org/team/tool:1.2.3",
    ),
    Check(
        "IMG-04", "Image runs as root", "high", "SA",
        ("CIS Docker 4.1", "OWASP Docker 2", "NIST SP 800-190 4.1.2", "hadolint DL3002", "checkov CKV_DOCKER_8",
         "semgrep missing-user"),
        "The image names a user, and that user is not uid 0: judged on the last stage of a Dockerfile, and in an image"
        " by its own /etc/passwd. A name that the image does not know is not decided. A service that sets user itself"
        " is judged by CMP-06.",
        "End the Dockerfile with USER and a number above 0, and give that user the directories it writes to.",
        "FROM debian:trixie-slim\nCMD [\"/usr/bin/app\"]",
        "FROM debian:trixie-slim\nUSER 64100:64100\nCMD [\"/usr/bin/app\"]",
    ),
    Check(
        "IMG-05", "Image has no health check", "low", "SA",
        ("CIS Docker 4.6", "checkov CKV_DOCKER_2", "hadolint DL3057"),
        "The image carries a HEALTHCHECK that is not NONE. A service with a health check of its own in the compose file"
        " needs none in the image.",
        "Add HEALTHCHECK to the Dockerfile, or healthcheck to the service in the compose file.",
        "FROM debian:trixie-slim\nUSER 64100\nCMD [\"/usr/bin/app\"]",
        "FROM debian:trixie-slim\nUSER 64100\nHEALTHCHECK CMD [\"/usr/bin/app\", \"--ready\"]\nCMD [\"/usr/bin/app\"]",
    ),
    Check(
        "IMG-06", "Image holds programs that take another user's rights", "medium", "A",
        ("CIS Docker 4.8",),
        "No regular file of the image has the set-user-id or set-group-id bit or file capabilities, after all layers"
        " are applied. With no-new-privileges on the container they give nothing; the finding is then low.",
        "Remove the bits in the layer that brings the file (chmod a-s, setcap -r), or remove the package.",
        "-rwsr-xr-x root root /usr/bin/su",
        "-rwxr-xr-x root root /usr/bin/su",
    ),
    Check(
        "IMG-07", "Image was not built cleanly", "low", "SA",
        ("CIS Docker 4.3", "CIS Docker 4.7", "CIS Docker 4.9", "CIS Docker 4.11", "hadolint DL3020", "hadolint DL3008",
         "hadolint DL3009", "hadolint DL3004"),
        "Files come in by COPY, not by ADD; nothing downloaded is piped into a shell; packages carry their versions and"
        " their lists are removed in the same layer; there is no sudo. In a finished image: its history shows neither"
        " ADD of a URL nor a download piped into a shell, and it holds no shell, package manager, sudo or package"
        " lists, unless it is said to need them.",
        "Use COPY; download to a file, compare its sha256 and run that; install PACKAGE=VERSION and remove"
        " /var/lib/apt/lists in the same RUN; copy what runs into a last stage without shell and package manager.",
        "RUN curl -fsS https://example.org/install.sh | sh",
        "COPY --from=build /usr/bin/app /usr/bin/app",
    ),
    Check(
        "IMG-08", "Image cannot run on this platform", "high", "SA",
        (),
        "The image has layers, an operating system and an architecture that the host can run, and something to start. A"
        " model artifact, an attestation or an image of an unknown platform loads, but never runs.",
        "Name the image of the host's platform (platform: linux/amd64), and mount models as files, not as images.",
        "services:\n  model:\n    image: ai/some-model:7B-Q4",
        "services:\n  model:\n    image: registry.example.org/llama-server:b11669",
    ),
    Check(
        "IMG-09", "Image lacks security updates", "medium", "A",
        ("CIS Docker 4.4", "NIST SP 800-190 4.1.1", "OWASP Docker 9"),
        "For every Debian package of the image the signed indices of its release hold no newer version in the security"
        " archive; no Python package of the image has a vulnerability that the package index knows, or was withdrawn;"
        " a bill of materials is stored. Each source says whether it answered; one that did not leaves the check"
        " undecided. The image's date is not judged: reproducible images carry the date of their newest package.",
        "Renew the lock file, build the image again and deploy it.",
        "openssl 3.5.1-1 (trixie-security has 3.5.1-1+deb13u1)",
        "openssl 3.5.1-1+deb13u1",
    ),
    Check(
        "IMG-10", "Nothing tells who made the image", "low", "S",
        ("CIS Docker 4.5", "CIS Docker 4.12", "OWASP Docker 13"),
        "The image carries provenance or a signature (in-toto attestations of BuildKit, signatures of cosign in an OCI"
        " layout), or a lock file binds its id to the hash of each package it was made from. That a signature is there"
        " is decided, not whose it is. Docker Content Trust is not asked for: its service has ended.",
        "Build with docker buildx build --provenance=true, sign with cosign, or deploy an image that a lock file names.",
        "docker save -o app.tar example/app:1.0",
        "docker buildx build --provenance=mode=max --sbom=true --output type=oci,dest=app.tar .",
    ),
)  # fmt: skip
TABLE = {check.id: check for check in CHECKS}
