# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is decided about TLS at the edge (TLS), from the configuration and from a live endpoint.

PRIVATE: internal to the collection, may change in any release.
"""

from __future__ import annotations

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Check

CHECKS: tuple[Check, ...] = (
    Check(
        "TLS-01",
        "Content is served without TLS",
        "critical",
        "SW",
        ("CIS NGINX 4.1.1", "OWASP TLS 1"),
        "There is a server with TLS, and what listens without TLS beyond loopback does nothing but redirect to https with a permanent or temporary"
        " redirect, answer certificate challenges below"
        " /.well-known/acme-challenge/, or refuse. Status pages under allow and deny all may be without TLS. A configuration behind a proxy that ends"
        " TLS is declared as such, then"
        " the check does not apply.",
        "Add listen 443 ssl with a certificate, and let the server on port 80 return 308 https://$host$request_uri.",
        "server { listen 80; location / { proxy_pass http://app; } }",
        "server { listen 80; location / { return 308 https://$host$request_uri; } }",
    ),
    Check(
        "TLS-02",
        "Old protocol versions are accepted",
        "high",
        "SW",
        ("CIS NGINX 4.1.4", "Mozilla TLS 5.7", "gixy weak_ssl_tls", "NIST SP 800-52r2 3.1"),
        "Only TLS 1.2 and 1.3 are accepted. What applies is judged: the value of the default server of an address and port counts for"
        " every server there, because in most releases the version is agreed before the name is known"
        "; without ssl_protocols nginx before 1.27.3 accepts TLS 1.0 and 1.1, and before 1.23.4 lacks 1.3. An OpenSSL level set by @SECLEVEL=0 or"
        " ssl_conf_command MinProtocol counts as well.",
        "Set ssl_protocols TLSv1.2 TLSv1.3 in http, so that every server has it.",
        "ssl_protocols TLSv1 TLSv1.1 TLSv1.2;",
        "ssl_protocols TLSv1.2 TLSv1.3;",
    ),
    Check(
        "TLS-03",
        "Weak cipher suites are accepted",
        "high",
        "SW",
        ("CIS NGINX 4.1.5", "CIS NGINX 4.1.14", "Mozilla TLS 5.7", "gixy weak_ssl_tls"),
        "Each suite that TLS 1.2 may use is one of the Mozilla intermediate profile: ECDHE (or DHE) with AES-GCM or ChaCha20-Poly1305. Names are"
        " opened as OpenSSL does: HIGH:!aNULL, DEFAULT and nginx's own default"
        " hold CBC and RSA key exchange and fail. Without TLS 1.2 ssl_ciphers decides nothing; TLS 1.3 suites are all strong, except the 8-byte tag"
        " (CCM_8) when somebody switched it on.",
        "Set ssl_ciphers to the suites of the Mozilla intermediate profile.",
        "ssl_ciphers HIGH:!aNULL:!MD5;",
        "ssl_ciphers ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384"
        ":ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305;",
    ),
    Check(
        "TLS-04",
        "Weak or unusual key exchange groups",
        "medium",
        "SW",
        ("Mozilla TLS 5.7", "gixy ssl_ecdh_curve"),
        "The groups are X25519, P-256 (prime256v1) and P-384 (secp384r1), with a hybrid post-quantum group (X25519MLKEM768, SecP256r1MLKEM768,"
        " SecP384r1MLKEM1024) in front where it is supported, or auto. Curves below 224 bits,"
        " secp256k1 and finite-field groups below 2048 bits fail. Only P-521 or only P-384 passes with low severity, because most clients then need a"
        " second round.",
        "Set ssl_ecdh_curve ?X25519MLKEM768:X25519:prime256v1:secp384r1 (the ? needs OpenSSL 3.3; leave the hybrid out before).",
        "ssl_ecdh_curve secp192r1;",
        "ssl_ecdh_curve X25519:prime256v1:secp384r1;",
    ),
    Check(
        "TLS-05",
        "Diffie-Hellman parameters are weak, or the server insists on its order",
        "low",
        "SW",
        ("CIS NGINX 4.1.6", "Mozilla TLS 5.7"),
        "Either no suite of the configuration uses finite-field DHE, or ssl_dhparam names parameters of at least 2048 bits (without ssl_dhparam nginx"
        " offers no such suite, which passes)."
        " ssl_prefer_server_ciphers is off when all suites are strong, so that telephones without AES hardware may choose ChaCha20; some testers call"
        " this a weakness, and it is none. With weak suites in the"
        " list the order is left to TLS-03.",
        "Remove ssl_dhparam and the DHE suites, and set ssl_prefer_server_ciphers off.",
        "ssl_prefer_server_ciphers on;",
        "ssl_prefer_server_ciphers off;",
    ),
    Check(
        "TLS-06",
        "Session tickets, early data or renegotiation weaken sessions",
        "medium",
        "SW",
        ("CIS NGINX 4.1.12", "Mozilla TLS 5.7", "RFC 8446 8"),
        "ssl_session_tickets is off, or ssl_session_ticket_key names at least two files that are rotated (without, the key lives as long as nginx"
        " runs; a shared cache lets nginx 1.23.2 and later rotate it itself, which"
        " passes). ssl_session_cache is none, off or shared, not builtin. ssl_early_data is off, because early data can be replayed. TLS compression"
        " and renegotiation with old clients are not switched on by"
        " ssl_conf_command Options.",
        "ssl_session_tickets off; ssl_session_cache shared:TLS:10m; ssl_early_data off;",
        "ssl_early_data on;",
        "ssl_session_tickets off;\nssl_early_data off;",
    ),
    Check(
        "TLS-07",
        "HSTS is missing, too short, or incomplete",
        "medium",
        "SW",
        ("CIS NGINX 4.1.8", "Mozilla TLS 5.7", "gixy hsts_header", "RFC 6797"),
        "Every server with TLS sends Strict-Transport-Security with max-age of at least 63072000 (two years) in every answer: with always, on every"
        " level that has headers of its own, from one source only. Servers without TLS do not"
        " send it (a map of $https that is empty there is right). preload without includeSubDomains or below one year fails. Listeners on"
        " loopback and"
        " servers that refuse every"
        " handshake are not judged.",
        'add_header Strict-Transport-Security "max-age=63072000" always; in http through a map of $https, or in each TLS server.',
        'add_header Strict-Transport-Security "max-age=3600";',
        'add_header Strict-Transport-Security "max-age=63072000; includeSubDomains" always;',
    ),
    Check(
        "TLS-08",
        "Certificate does not fit names, purpose or time",
        "high",
        "SW",
        ("CIS NGINX 4.1.2", "Mozilla TLS 5.7", "CA/Browser Forum BR 6.3.2"),
        "The certificate names every server_name (subjectAltName, with wildcards for one label), is meant for servers (extended key usage serverAuth)"
        " and for signatures (key usage digitalSignature), is valid now, is valid for at most 366 days (90 in the modern"
        " profile; a private CA may be declared), and has at least a third of its time, or 14 days, left. The common name decides nothing.",
        "Issue a certificate with all names in subjectAltName and renew it when two thirds of its time have passed.",
        "subjectAltName: DNS:old.example.org; notAfter: yesterday",
        "subjectAltName: DNS:app.example.org; notAfter in 60 days",
    ),
    Check(
        "TLS-09",
        "Key of the certificate is weak or does not belong to it",
        "high",
        "SW",
        ("Mozilla TLS 5.7", "NIST SP 800-57 5.6"),
        "The key is ECDSA on P-256 or P-384, Ed25519, or RSA of at least 2048 bits; the certificate is signed with SHA-256 or better;"
        " ssl_certificate_key holds the key of ssl_certificate, which nginx refuses to start without.",
        "Issue a new certificate with an ECDSA P-256 key.",
        "Public-Key: (1024 bit), sha1WithRSAEncryption",
        "Public-Key: P-256, ecdsa-with-SHA256",
    ),
    Check(
        "TLS-10",
        "Certificate chain is incomplete or out of order",
        "medium",
        "SW",
        ("CIS NGINX 4.1.2", "RFC 5280 4.2.1"),
        "The file holds the leaf first and then every certificate between it and the root, each signed by the next; the root itself is not needed."
        " Certificates of authorities have basicConstraints CA:TRUE and keyUsage"
        " keyCertSign, both critical, because strict verifiers (Python from 3.13 on) refuse others. A leaf signed directly by a root has no chain and"
        " passes; a self-signed leaf is named by TLS-12.",
        "Write the leaf and then the intermediate certificates into the file that ssl_certificate names.",
        "ssl_certificate: intermediate, leaf",
        "ssl_certificate: leaf, intermediate",
    ),
    Check(
        "TLS-11",
        "Private key can be read by others than root",
        "high",
        "H",
        ("CIS NGINX 4.1.3",),
        "The file of each ssl_certificate_key, proxy_ssl_certificate_key and ticket key belongs to root or to the user that nginx runs as"
        " and has mode 0400, 0440, 0600 or 0640, so that nobody else reads or writes it; no directory on the way may be written by others."
        " A key inside the configuration (data:) fails. Whether a key was committed or copied into an image is decided by SEC and IMG checks.",
        "chown root FILE; chmod 0400 FILE.",
        "-rw-r--r-- root root /etc/nginx/tls.key",
        "-r-------- root root /etc/nginx/tls.key",
    ),
    Check(
        "TLS-12",
        "Stapling does nothing, or the certificate is self-signed",
        "low",
        "SW",
        ("CIS NGINX 4.1.7", "gixy ssl_stapling_without_resolver", "gixy ssl_stapling_letsencrypt"),
        "ssl_stapling is on only with a resolver (or ssl_stapling_file) and for a certificate that names a responder; Let's Encrypt has none since"
        " 2025. It may be off: then nothing is stapled and nothing fails. A self-signed"
        " certificate, or one of a private authority, is named here (low; medium in a configuration declared as production), so that nobody believes"
        " clients check it.",
        "Remove ssl_stapling, or set resolver and ssl_trusted_certificate; get a certificate that clients trust.",
        "ssl_stapling on;  # without resolver",
        "ssl_stapling off;",
    ),
    Check(
        "TLS-13",
        "Upstream TLS is not verified, or HTTP/2 connections reach the wrong server",
        "medium",
        "S",
        ("CIS NGINX 4.1.9", "CIS NGINX 4.1.10", "gixy http2_misdirected_request"),
        "Every location with proxy_pass https:// (grpcs://, uwsgis://) has proxy_ssl_verify on, proxy_ssl_trusted_certificate, a proxy_ssl_name that"
        " fits, and server name indication where a name is needed; proxy_ssl_protocols excludes"
        " old versions. With HTTP/2 or HTTP/3 one connection may carry requests for several names: a default server that refuses"
        " handshakes for unknown names refuses such requests too (421).",
        "proxy_ssl_verify on; proxy_ssl_trusted_certificate CA; proxy_ssl_server_name on; proxy_ssl_name NAME; return 421 in the default server.",
        "location / { proxy_pass https://backend.example.org; }",
        "location / {\n    proxy_ssl_verify on;\n    proxy_ssl_trusted_certificate /etc/ssl/ca.pem;\n    proxy_ssl_server_name on;\n   "
        " proxy_ssl_name"
        " backend.example.org;\n    proxy_pass https://backend.example.org;\n}",
    ),
)
TABLE = {check.id: check for check in CHECKS}
