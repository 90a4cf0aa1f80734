# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SCRAM against the vectors of its standards, and against what a lying server could send."""

from __future__ import annotations

import base64

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _postgres_scram as scram

RFC5802 = {
    "algorithm": "sha1",
    "nonce": "fyko+d2lbbFgONRv9qkxdawL",
    "server_first": "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
    "client_final": "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
    "server_final": "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
}
RFC7677 = {
    "algorithm": "sha256",
    "nonce": "rOprNGfwEbeRWgbNEkqO",
    "server_first": "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
    "client_final": "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
    "server_final": "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
}


@pytest.mark.parametrize("vector", [RFC5802, RFC7677], ids=["rfc5802", "rfc7677"])
def test_exchange_of_the_standard(vector):
    client = scram.Client("pencil", "user", vector["nonce"], vector["algorithm"])
    assert client.first() == f"n,,n=user,r={vector['nonce']}"
    assert client.final(vector["server_first"]) == vector["client_final"]
    client.check(vector["server_final"])
    with pytest.raises(scram.ScramError, match=r"^the server could not prove that it knows the password's verifier$"):
        client.check("v=" + base64.b64encode(b"x" * 32).decode())


# Made by PostgreSQL 17: SET password_encryption='scram-sha-256'; CREATE ROLE x PASSWORD 'pencil'
FROM_THE_SERVER = "SCRAM-SHA-256$4096:HzNLS6x277mSeG0QvzInOg==$nVMzj9B/vLUslQm8F1cTg+QYsNfYLFXOPcLyz3wJ51Q=:x4+f9hwRnQqwyWS+G6m61z0gVebVHgQr8zdtb7W29Ho="


def test_verifier_of_the_server_is_recognised():
    assert scram.matches(FROM_THE_SERVER, "pencil")
    assert not scram.matches(FROM_THE_SERVER, "pencils")


def test_verifier_keys_are_those_of_the_standard():
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    assert scram.verifier("pencil", salt) == (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:"
        "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )


def test_verifier_is_salted_and_recognised_again():
    first, second = scram.verifier("secret"), scram.verifier("secret")
    assert first != second
    assert scram.matches(first, "secret") and scram.matches(second, "secret")


@pytest.mark.parametrize(
    "stored",
    [None, "", "md5d41d8cd98f00b204e9800998ecf8427e", "plain", "SCRAM-SHA-256$0:AA==$AA==:AA==", "SCRAM-SHA-256$4096:A$B:C", "SCRAM-SHA-256$4096:===$B=:C="],
)  # fmt: skip
def test_anything_else_never_matches(stored):
    assert not scram.matches(stored, "")


@pytest.mark.parametrize(
    ("challenge", "message"),
    [
        ("nonsense", "the server's challenge is not SCRAM"),
        ("r=abcX,s=!!!,i=1", "the server's challenge is not SCRAM"),
        ("r=abcX,s=AA==,i=many", "the server's challenge is not SCRAM"),
        ("s=AA==,i=1", "the server's challenge is not SCRAM"),
        ("r=xyz,s=AA==,i=4096", "the server's challenge does not belong to this login"),
        ("r=abc,s=AA==,i=4096", "the server's challenge does not belong to this login"),
        ("r=abcX,s=AA==,i=0", "the server asks for 0 iterations"),
        ("r=abcX,s=AA==,i=99999999", "the server asks for 99999999 iterations"),
    ],
)
def test_lying_server(challenge, message):
    with pytest.raises(scram.ScramError) as refused:
        scram.Client("x", nonce="abc").final(challenge)
    assert str(refused.value) == message


def test_a_server_cannot_be_checked_before_it_was_challenged():
    with pytest.raises(scram.ScramError):
        scram.Client("x").check("v=")


def test_names_are_escaped():
    assert scram.Client("x", "a=b,c", "n").first() == "n,,n=a=3Db=2Cc,r=n"
