# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run by a Python that has sslyze: for each line [port, name, CA file] of the input, scan that and print what sslyze says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sslyze import Scanner, ServerNetworkConfiguration, ServerNetworkLocation, ServerScanRequest
from sslyze.mozilla_tls_profile import tls_config_checker as mozilla
from sslyze.plugins.certificate_info.implementation import CertificateInfoExtraArgument
from sslyze.scanner.models import ScanCommandsExtraArguments

_VERSIONS = {
    "ssl_2_0": "SSL 2.0", "ssl_3_0": "SSL 3.0", "tls_1_0": "TLS 1.0", "tls_1_1": "TLS 1.1", "tls_1_2": "TLS 1.2", "tls_1_3": "TLS 1.3",
}  # fmt: skip


def facts(port: int, name: str, ca_file: str) -> dict:
    """Everything of sslyze's result that the audit says something about, too."""
    extra = ScanCommandsExtraArguments(certificate_info=CertificateInfoExtraArgument(custom_ca_file=Path(ca_file)))
    request = ServerScanRequest(
        server_location=ServerNetworkLocation(hostname=name, ip_address="127.0.0.1", port=port),
        network_configuration=ServerNetworkConfiguration(tls_server_name_indication=name),
        scan_commands_extra_arguments=extra,
    )
    scanner = Scanner()
    scanner.queue_scans([request])
    result = next(iter(scanner.get_results()))
    found: dict = {"status": result.scan_status.value, "errors": []}
    scan = result.scan_result
    if scan is None:
        found["errors"].append(str(result.connectivity_error_trace)[-300:])
        return found

    def part(field: str):
        attempt = getattr(scan, field)
        if attempt.result is None:
            found["errors"].append(field)
        return attempt.result

    found["suites"] = {
        shown: sorted(item.cipher_suite.name for item in part(f"{field}_cipher_suites").accepted_cipher_suites)
        for field, shown in _VERSIONS.items()
        if part(f"{field}_cipher_suites") and part(f"{field}_cipher_suites").accepted_cipher_suites
    }
    curves = part("elliptic_curves")
    found["curves"] = sorted(curve.name for curve in (curves.supported_curves or ())) if curves else None
    early, compression, again = part("tls_1_3_early_data"), part("tls_compression"), part("session_renegotiation")
    found["early_data"] = bool(early and early.supports_early_data)
    found["compression"] = bool(compression and compression.supports_compression)
    found["secure_renegotiation"] = bool(again and again.supports_secure_renegotiation)
    found["client_renegotiation"] = bool(again and again.is_vulnerable_to_client_renegotiation_dos)
    certificates = part("certificate_info")
    found["certificates"] = [
        {
            "order": deployment.received_chain_has_valid_order,
            "trusted": any(item.was_validation_successful for item in deployment.path_validation_results),
            "sha1": deployment.verified_chain_has_sha1_signature,
        }
        for deployment in (certificates.certificate_deployments if certificates else ())
    ]
    try:
        mozilla.check_server_against_tls_configuration(
            result, mozilla.MozillaTlsConfiguration.get(mozilla.TlsConfigurationEnum.MOZILLA_INTERMEDIATE)
        )
        found["issues"] = {}
    except mozilla.ServerNotCompliantWithTlsConfiguration as error:
        found["issues"] = dict(error.issues)
    except mozilla.ServerScanResultIncomplete as error:
        found["errors"].append(str(error))
        found["issues"] = {}
    return found


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(facts(*json.loads(line))), flush=True)
