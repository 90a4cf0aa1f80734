# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole deployment with the edge's certificate ordered from an ACME authority (Debian's pebble, on the host itself)."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.long

NAME = "ai.example.test"
PEBBLE = {
    "pebble": {
        "listenAddress": "127.0.0.1:14000",
        "managementListenAddress": "127.0.0.1:15000",
        "certificate": "/root/pebble.crt",
        "privateKey": "/root/pebble.key",
        "httpPort": 80,
        "tlsPort": 443,
        "ocspResponderURL": "",
        "externalAccountBindingRequired": False,
    }
}
AUTHORITY = f"""
set -eu
apt-get update -qq && apt-get install -y -qq --no-install-recommends pebble openssl >/dev/null
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 \
  -keyout /root/pebble.key -out /root/pebble.crt 2>/dev/null
echo '{json.dumps(PEBBLE)}' > /root/pebble.json
echo 127.0.0.1 {NAME} >> /etc/hosts
systemd-run --quiet --unit=pebble --setenv=PEBBLE_VA_NOSLEEP=1 "$(command -v pebble)" -config /root/pebble.json
"""
ROOT_OF_AUTHORITY = """
import ssl, sys, time, urllib.request
context = ssl.create_default_context(cafile="/root/pebble.crt")
for attempt in range(100):
    try:
        text = urllib.request.urlopen("https://127.0.0.1:15000/roots/0", context=context, timeout=5).read()
        break
    except OSError:
        time.sleep(0.1)
open("/root/acme-root.pem", "wb").write(text)
"""
OPTIONS = {
    "mcpstack_server_names": [NAME],
    "mcpstack_pki_edge_source": "acme",
    "mcpstack_pki_acme_directory": "https://127.0.0.1:14000/dir",
    "mcpstack_pki_acme_ca_file": "/root/pebble.crt",
    "mcpstack_pki_acme_email": "operator@example.test",
    "mcpstack_pki_acme_terms_agreed": True,
    "mcpstack_verify_ca_file": "/root/acme-root.pem",
}


def test_the_edge_gets_its_certificate_from_an_authority(bare_host):
    bare_host.ssh(AUTHORITY)
    bare_host.ssh(f"python3 -c '{ROOT_OF_AUTHORITY}'")
    status, _changed, output = bare_host.run(**OPTIONS)
    assert status == 0, output[-4000:]
    status, changed, output = bare_host.run(**OPTIONS)
    assert (status, changed) == (0, 0), output[-4000:]
