# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Values that stand where a secret should be. PRIVATE: internal to the collection, may change in any release.

Looked at before any meter of strength, because long placeholders are strong by every meter. The reason that is returned
never repeats the value.
"""

from __future__ import annotations

import hashlib
import re

#: Longest value that is looked at; no placeholder is longer.
LIMIT = 400

#: Phrases that say that somebody has to act. At least seven letters, so that no random value holds one by chance.
_PHRASES = re.compile(
    r"change(?:me|this|it|before|in(?:prod|production)|(?:the)?(?:password|secret|default|value|key|token))"
    r"|replace(?:me|this|it|with|before|the)|(?:to|must)be(?:changed|replaced|defined|set|filled)|pleas?echange"
    r"|(?:your|my|the|some)(?:own|super|very|strong|secure|long|random|secret|api|app|jwt|db|database|root|admin|private)+"
    r"(?:password|passwd|pass|secret|token|key|passphrase)"
    r"|your(?:password|passwd|secret|token|key|apikey|value|passphrase)(?:s?here|$)"
    r"|(?:insert|enter|put|add|paste|fill|set|type|provide)(?:in)?(?:your|this|something|password|secret|token|value)"
    r"|(?:insert|enter|paste|fillin|fillit|putit)(?:me|here)"
    r"|(?:password|passwd|secret|token|key|value|it|this|something)(?:goes)?here$"
    r"|placeholder|do(?:not|nt)use|not(?:for|a|the|in)(?:production|prod|real|secret|secure)|notsecure|insecure"
    r"|thisisa?(?:secret|password|test|demo|example|fake|key|token|placeholder)|thisisnotasecret|fillmein"
    r"|foobar(?:ed|baz)?$|someran?dom(?:string|value|secret|key)|ran?dom(?:string|value|secret)here"
    r"|generate(?:me|with|by|using|arandom|astrong|one)|opensslrand|uuidgen"
    r"|supersecret|topsecret|verysecret|extrasecret|mysecret|mypassword|mytoken|testtest|dummy(?:value|secret|password|key|token)"
    r"|keyboardcat|correcthorsebatterystaple|hunter2$|iloveyou$"
)

#: A token that says it alone, when little else is there.
_TOKENS = frozenset("example sample dummy fixme placeholder changeme replaceme redacted".split())
#: Words of which placeholders are made.
_WORDS = frozenset(
    "your my the a an this that some insert enter put add paste fill set type replace change update generate use with by to"
    " be in on of for from at least and or not only please must should here me it own very super strong secure safe long"
    " random secret password passwd pass passphrase pwd pw token key api apikey app application access auth private public"
    " jwt db database root admin user username client service server host env environment value string text hash salt"
    " pepper credential credentials encryption encrypt signing session cookie webhook production prod development dev"
    " staging test testing demo local default example sample dummy temp temporary todo fixme tbd placeholder real actual new"
    " old chars characters char bits bit bytes byte hex base64 min minimum length required optional something anything"
    " none null nil undefined unset empty changeme foo bar baz goes want company name id xxx xxxx fake mock insecure unsafe"
    " unique complex openssl rand aws github gitlab openai google azure slack stripe".split()
)
_CUES = frozenset(
    "your my insert enter put add paste fill replace change update here todo fixme tbd placeholder example sample dummy"
    " fake mock".split()
)
_LAST = frozenset("here todo fixme tbd placeholder example sample dummy".split())

#: What images start with when nobody says otherwise, and what people type to be done with it.
DEFAULTS = frozenset(
    "admin administrator root toor postgres postgresql mysql mariadb redis valkey mongo mongodb rabbitmq guest minio"
    " minioadmin minio123 minio-secret-key elastic neo4j grafana prom-operator keycloak airflow superset sonar jenkins nexus"
    " docker default changeit changeme pass passwd password passw0rd p@ssw0rd p@ssword secret token test testing user"
    " username example sample dummy demo foo bar foobar foobared qwerty letmein rootpass rootpassword adminadmin adminpass"
    " adminpassword admin123 admin1234 admin@123 root123 test123 test1234 pass123 password1 secret123 postgres123 redis123"
    " sa none null nil undefined unset todo tbd fixme n/a na true false yes no on off key apikey api-key master masterkey"
    " myroot hvs.root traefik n8n langfuse qdrant ollama openwebui sk-dummy sk-test sk-1234 not-needed notneeded dev"
    " development production staging local localhost superuser supersecret system manager oracle cisco ubuntu vagrant"
    " ansible kubernetes harbor12345 zabbix wordpress drupal joomla nextcloud gitea gitlab drone portainer vault consul"
    " clickhouse influxdb influx timescale supabase hasura directus strapi metabase redash memcached cassandra scylla"
    " couchbase couchdb opensearch kibana logstash changeonlogin welcome welcome1 mcpstack".split()
)

#: SHA-256 of values that a manual prints and everybody copies, so that none of them stands in this file.
_DOCUMENTED = frozenset((
    "1a5d44a2dca19669d72edf4c4f1c27c4c1ca4b4408fbb17f6ce4ad452d78ddb3",  # AWS
    "78314b11be2e581549ac1c4f616563fad3fdf0c3b71678f6e2299182080e0598",  # AWS
    "0011cc25eb4320717494d2703e8cba85743e71b500283c21c8b88147992f9059",  # the emulators of Azure
    "aa6547439583c3a275d4542a0df6c1ad6a863971be9f2a2220f027cc02aef615",  # the emulators of Azure
    "f3c3964ca854e172366f81d8bdb327da487c2f8a15f954b116e28961dd6585c0",  # Grafana
    "81886cc4d79074f6e946934d4e9e9d6a2ef320041045a0bd3c36ab6939df37e8",  # Airflow
    "2cafc0970149a84f3b9e62eaf169f36f59907a3b3e31f7b82e68c69cd27f7326",  # Stripe
    "f2d6ca16515033e5dce14eba840b979d27b5cbae24bb3e5bf484339667f86397",  # Stripe
    "7e8de44ea9ecf6d53415c90f5b249a8591f7abafbf7d65a2c0d855afeca3ec09",  # Stripe
    "f5e95c9954635b65acab57e6d5ea663eb900f06dc8794a90358f5abb1c77d4e0",  # reCAPTCHA
    "03b970ed8171d73b58bbc9a5c72e3e4eec28503b56b3bb400a0801857dd45614",  # reCAPTCHA
    "465d9ad5d5528ebe287b5dce4fb51620833d09b290e49ddcc70ca6c4a0aea01b",  # jwt.io
    "1ea604f64a8a5084cb916142866daf06cdb5f69c716f7ba286dc0c1eb2c2209a",  # jwt.io
    "a064b502e61d27e94b8717290e5e1b32e36720e9fbdf952ec81a84c07128cb37",  # Supabase
    "80d1c192cf2210c5282179cc9989f4be2e9b24605daabe1bc7da10fd9ed842ed",  # Supabase
    "52f004438faf780274c9c95f79d1cf39d2355fbcf035899fc0242b1437f30df3",  # Supabase
    "3f7aa5c0b56cad6ccbfc84814cd4b16a1abf3dd31d60b6f1663cc751b2a0d2a6",  # Superset
    "26fd2cb96404507841385bd67e6f16710e44c7fe924c7e5be55177f37af52027",  # Superset
    "8b1b17a9740c068accab5c3d0d652c8e3cc13206e70bb73b42ea41d4c2de3c12",  # RFC 7515
    "1bbb9293c38acc5e510d904495845d532df64a9e5996b2ec7c86cc2e2ac33b5a",  # the playground of MinIO
    "df452eef23e8cf2c74af54c0c7419c05a5ec70ef4d5c2eb04082b02af8c55598",  # the playground of MinIO
    "d65df89f702eec58ca3c7bf2001c9ffc7cd80553ae01d42a799ba26756142d96",  # FIPS 197
    "5947d7c33d783f94b3b4c1a96ebc8991ed28f1b069b71e03376cba8caa98a720",  # FIPS 197
))  # fmt: skip

_LEET = str.maketrans("4@30$51!7+", "aaeossiltt")
#: Characters that may stand beside a phrase in a value that is written together.
_ADDITION = 20
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_WHOLE = (
    (re.compile(r"<[A-Za-z][A-Za-z _.:/-]{1,60}>"), "stands in angle brackets"),
    (re.compile(r"\[[A-Za-z][A-Za-z _.:/-]{1,60}\]"), "stands in square brackets"),
    (re.compile(r"\$\{[^{}]*\}|\$\([^()]*\)|\$[A-Za-z_][A-Za-z0-9_]*|%[A-Za-z_][A-Za-z0-9_]*%"), "is a variable that nobody replaced"),
    (re.compile(r"\{\{.*\}\}|\{%.*%\}|%\([A-Za-z_]+\)s|\{[A-Za-z_][A-Za-z0-9_. -]*\}|__[A-Z][A-Z0-9_]*__|@@?[A-Z][A-Z0-9_]*@@?", re.DOTALL), "is a template"
                                                                                                                                             " that"
                                                                                                                                             " nobody"
                                                                                                                                             " filled"),
    (re.compile(r"(?:[x*._?#-]|•|…|·)+", re.IGNORECASE), "is a blank to fill in"),
    (re.compile(r"0+(?:-0+)*-?[01]?|(?:([0-9a-f])\1{7})-(?:\1{4}-){3}\1{12}", re.IGNORECASE), "is a number of zeros or of one digit"),
)  # fmt: skip
_BLANK = re.compile(
    r"[xX]{5,}|\*{4,}|\.{3,}$|…|<(?:[a-z]{2}[a-z _-]{2,40}|[A-Z]{2}[A-Z _-]{2,40})>|\$\{[A-Za-z_][A-Za-z0-9_]*\}|\{\{[^{}]*\}\}"
)


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[^0-9a-z]+", text.lower()) if word]


def placeholder(value: str, key: str = "") -> str | None:
    """Why the value is no secret but a placeholder or a default, or None. ``key``: the name it was given to."""
    text = value.strip().strip("\"'`").strip()
    if not text:
        return "is empty"
    if len(text) > LIMIT:
        return None
    for pattern, reason in _WHOLE:
        if pattern.fullmatch(text):
            return reason
    if _BLANK.search(text):
        return "holds a blank to fill in"
    if hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() in _DOCUMENTED:
        return "is printed in a manual"
    if text.lower() in DEFAULTS:
        return "is a default or a common stand-in"
    squeezed = re.sub(r"[^0-9a-z]+", "", key.lower())
    bare = re.sub(r"[^0-9a-z]+", "", text.lower())
    if squeezed and bare and (bare == squeezed or bare in _words(key)):
        return "repeats its own name"
    return _phrase(text)


def _phrase(text: str) -> str | None:
    if re.search(r"(?:^|[^A-Z])EXAMPLE(?:KEY)?$|[A-Z0-9]EXAMPLE(?:KEY)?$|^EXAMPLE[-_]", text) or text.startswith(
        "django-insecure-"
    ):
        return "is an example of a manual"
    words = _words(_CAMEL.sub(" ", text))
    unknown = [word for word in words if word not in _WORDS and not word.isdigit()]
    # "secret-token", "my_api_key", "test-password-123": nothing but words that speak of secrets.
    if len(words) > 1 and not unknown and any(not word.isdigit() for word in words):
        return "is a placeholder"
    words = _words(text)
    unknown = [word for word in words if word not in _WORDS and not word.isdigit()]
    if len(unknown) > 3:  # a passphrase of random words may hold any of these
        return None
    for plain in (text.lower(), text.lower().translate(_LEET)):
        for kept in (r"[^a-z]+", r"[^a-z0-9]+"):
            letters = re.sub(kept, "", plain)
            rest = _PHRASES.sub("", letters)
            # What else stands there is a short addition, or the phrase came about by chance.
            if len(rest) < len(letters) and (len(words) > 1 or len(rest) <= _ADDITION):
                return "is a placeholder"
    named = all(word.isalpha() and len(word) <= 12 for word in unknown)
    if len(unknown) <= 2 and (
        _TOKENS & set(words) or (named and len(words) > 1 and (words[0] in _CUES or words[-1] in _LAST))
    ):
        return "is a placeholder"
    return None
