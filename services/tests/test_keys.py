# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The key store, against a real Postgres: secrets, rotation, news of changes, and what a guess can learn."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import support
from mcpstack.admin import keystore
from mcpstack.common import apikey, keys
from mcpstack.common.errors import ApiError
from mcpstack.common.keys import KeyStore
from mcpstack.common.secretfile import Login, Peppers, SecretFile, login, peppers
from support import Cable, Stack


@dataclass(frozen=True)
class Settings:
    """No service's own: the store asks for no more than this."""

    db_port: int
    db_name: str
    tls_ca_file: Path
    db_host: str = "localhost"
    default_rpm: int = 60
    default_concurrency: int = 4
    key_cache_seconds: float = 3600
    key_grace_seconds: float = 3600


@dataclass(frozen=True)
class Secrets:
    db_login: SecretFile[Login]
    pepper: SecretFile[Peppers]


class Place:
    """A database of its own, the files of a service, and what an operator does to keys."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.postgres = stack.postgres
        self.database = stack.postgres.new_database()
        self.settings = Settings(stack.postgres.port, self.database, stack.tls.ca)
        files = support.write_secrets(
            folder, {"db": f"gateway_a:{support.DB_PASSWORD}", "pepper": f"1:{support.PEPPER}"}
        )
        self.pepper_path = files["pepper"]
        self.secrets = Secrets(
            SecretFile("DB", Path(files["db"]), login), SecretFile("PEPPER", Path(files["pepper"]), peppers)
        )

    def put(self, key: str | None = None, **more: Any) -> str:
        key = key or support.make_key()
        parsed = apikey.parse(key)
        assert parsed is not None
        with self.postgres.login(self.database) as conn, conn.transaction():
            want = keystore.wanted(more.pop("name", "test"), more.pop("scopes", "chat"), **more)
            keystore.put(conn, parsed, want, self.secrets.pepper.read(), check=False)
        return key

    def rotate(self, kid: str, overlap: str) -> str:
        with self.postgres.login(self.database) as conn, conn.transaction():
            _, key = keystore.rotate(
                conn, kid, "dev", self.secrets.pepper.read(), keystore.overlap(overlap), check=False
            )
        assert key is not None
        return key.text

    def revoke(self, kid: str) -> None:
        with self.postgres.login(self.database) as conn, conn.transaction():
            assert keystore.revoke(conn, kid, None, check=False)["changed"] is True

    def sql(self, statement: str, *values: Any) -> list[Any]:
        with self.postgres.login(self.database) as conn:
            cursor = conn.execute(statement.encode(), values)
            return cursor.fetchall() if cursor.description else []

    @contextlib.asynccontextmanager
    async def store(self, listen: bool = True, **settings: Any) -> AsyncIterator[KeyStore]:
        store = KeyStore(replace(self.settings, **settings), self.secrets)
        try:
            await store.prepare()
            if listen:
                await until("the store to listen", lambda: store.listening)
            elif store._listener is not None:
                store._listener.cancel()
            yield store
        finally:
            await store.close()


@pytest.fixture
def place(stack: Stack, tmp_path: Path) -> Place:
    return Place(stack, tmp_path)


async def until(what: str, probe: Callable[[], Any] | Callable[[], Awaitable[Any]], limit: float = 10) -> None:
    try:
        async with asyncio.timeout(limit):
            while True:
                found = probe()
                if asyncio.iscoroutine(found):
                    found = await found
                if found:
                    return
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"waited {limit:g} s in vain: {what}") from None


async def answer(store: KeyStore, key: str) -> str:
    """`ok`, or the code of the refusal."""
    try:
        await store.verify(f"Bearer {key}")
    except ApiError as error:
        return error.code
    return "ok"


def kid_of(key: str) -> str:
    return key.split("_")[2]


# What a key may do


def test_a_key_says_what_it_may(place: Place) -> None:
    full = place.put(
        scopes="tools:call,chat", rpm=5, concurrency=2, tpm=700, tokens_day=8000, tokens_month=90_000, cache=True,
        expires_at="2100-01-01T00:00:00+00:00", name="full",
    )  # fmt: skip
    plain = place.put()

    async def go() -> tuple[keys.Key, keys.Key]:
        async with place.store() as store:
            return await store.verify(f"Bearer {full}"), await store.verify(f"bearer  {plain} ")

    one, two = asyncio.run(go())
    assert (one.kid, one.name, one.scopes) == (kid_of(full), "full", {"tools:call", "chat"})
    assert (one.rpm, one.concurrency, one.tpm, one.tokens_day, one.tokens_month, one.cache) == (
        5, 2, 700, 8000, 90_000, True,
    )  # fmt: skip
    assert one.expires_at is not None
    assert one.expires_at.year == 2100
    assert (two.rpm, two.concurrency, two.tpm, two.tokens_day, two.tokens_month, two.cache, two.expires_at) == (
        60, 4, None, None, None, False, None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("header", "code"),
    [(None, "missing_api_key"), ("", "missing_api_key"), ("Bearer", "missing_api_key"), ("Bearer  ", "missing_api_key"),
     ("Basic abc", "missing_api_key"), ("Bearer nonsense", "invalid_api_key"), ("Bearer é" * 9, "invalid_api_key"),
     ("Bearer mk_dev_" + "\0" * 60, "invalid_api_key"), ("Bearer " + "x" * 100_000, "invalid_api_key")],
)  # fmt: skip
def test_headers_that_hold_no_key_need_no_database(place: Place, header: str | None, code: str) -> None:
    store = KeyStore(place.settings, place.secrets)
    with pytest.raises(ApiError) as caught:
        asyncio.run(store.verify(header))
    assert caught.value.code == code


# Rotation


def test_both_secrets_work_during_the_overlap_and_the_old_one_ends(place: Place) -> None:
    old = place.put()

    async def go() -> None:
        async with place.store() as store:
            before = await store.verify(f"Bearer {old}")
            new = place.rotate(kid_of(old), "24h")
            assert new != old
            assert kid_of(new) == kid_of(old)
            after = await store.verify(f"Bearer {new}")  # though the cache knows the old one only
            during = await store.verify(f"Bearer {old}")
            assert (before.expires_at, after.expires_at) == (None, None)
            assert during.expires_at is not None
            assert len({before.secret_id, after.secret_id}) == 2
            place.sql(
                "UPDATE gateway.api_key_secret SET expires_at = now() - interval '1 s' WHERE expires_at IS NOT NULL"
            )
            await until("the end", lambda: store._cache.get(kid_of(old)) is None)
            assert (await answer(store, old), await answer(store, new)) == ("expired_api_key", "ok")

    asyncio.run(go())


def test_rotation_without_overlap_ends_the_old_secret_at_once(place: Place) -> None:
    old = place.put()

    async def go() -> None:
        async with place.store() as store:
            assert await answer(store, old) == "ok"
            new = place.rotate(kid_of(old), "0")
            assert await answer(store, new) == "ok"
            await until("the end", lambda: refused(store, old, "expired_api_key"))

    asyncio.run(go())


async def refused(store: KeyStore, key: str, code: str) -> bool:
    return await answer(store, key) == code


def test_four_secrets_are_the_most(place: Place) -> None:
    texts = [place.put()]
    kid = kid_of(texts[0])
    texts += [place.rotate(kid, "1h") for _ in range(3)]
    with pytest.raises(keystore.InputError, match="has 4 secrets that work, more are not looked at"):
        place.rotate(kid, "1h")

    async def go() -> list[str]:
        async with place.store() as store:
            return [await answer(store, text) for text in texts]

    assert asyncio.run(go()) == ["ok"] * 4
    texts.append(place.rotate(kid, "0"))
    assert asyncio.run(go()) == ["invalid_api_key", *["expired_api_key"] * 3, "ok"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("UPDATE gateway.api_key SET revoked_at = now()", "invalid_api_key"),
        ("UPDATE gateway.api_key_secret SET revoked_at = now()", "invalid_api_key"),
        ("UPDATE gateway.api_key SET expires_at = now() - interval '1 s'", "expired_api_key"),
        ("UPDATE gateway.api_key_secret SET expires_at = now() - interval '1 s'", "expired_api_key"),
        ("UPDATE gateway.api_key_secret SET not_before = now() + interval '1 h'", "invalid_api_key"),
        ("UPDATE gateway.api_key_secret SET not_before = now() - interval '1 h'", "ok"),
        ("UPDATE gateway.api_key SET expires_at = now() + interval '1 h'", "ok"),
        ("DELETE FROM gateway.api_key_secret", "invalid_api_key"),
    ],
)
def test_every_change_reaches_a_store_that_would_trust_its_cache(place: Place, change: str, code: str) -> None:
    key = place.put()

    async def go() -> None:
        async with place.store() as store:
            assert await answer(store, key) == "ok"
            place.sql(change)
            await until("the news", lambda: kid_of(key) not in store._cache)
            assert await answer(store, key) == code

    asyncio.run(go())


def test_the_pepper_rotates_under_running_keys(place: Place) -> None:
    key, other = place.put(), place.put(name="other")
    new = "6b" * 32

    async def go() -> None:
        async with place.store() as store:
            assert await answer(store, key) == "ok"
            support.swap_secret(place.pepper_path, f"2:{new}\n1:{support.PEPPER}")
            assert (await answer(store, key), await answer(store, other)) == ("ok", "ok")
            place.put(key)  # hashed again, with the new one
            versions = place.sql("SELECT pepper_version FROM gateway.api_key_secret ORDER BY id")
            assert versions == [(2,), (1,)]
            assert (await answer(store, key), await answer(store, other)) == ("ok", "ok")
            support.swap_secret(place.pepper_path, f"2:{new}")  # too early: one key still needs the old one
            assert (await answer(store, key), await answer(store, other)) == ("ok", "auth_unavailable")
            support.swap_secret(place.pepper_path, "nonsense")
            assert await answer(store, key) == "auth_unavailable"
            support.swap_secret(place.pepper_path, f"2:{new}")
            assert await answer(store, key) == "ok"

    asyncio.run(go())


# News of changes


def test_a_revoked_key_stops_on_every_replica_at_once(place: Place) -> None:
    key = place.put()

    async def go() -> None:
        async with place.store() as one, place.store() as two, place.store(listen=False) as deaf:
            for store in (one, two, deaf):
                assert await answer(store, key) == "ok"
            place.revoke(kid_of(key))
            for store in (one, two):
                await until("the news", lambda: refused(store, key, "invalid_api_key"), 5)  # noqa: B023 - used at once
            assert await answer(deaf, key) == "ok"  # its cache would have lasted an hour: the news is what counts

    asyncio.run(go())


def test_without_news_the_cache_is_the_limit(place: Place) -> None:
    key = place.put()

    async def go() -> None:
        async with place.store(listen=False, key_cache_seconds=0.05) as store:
            assert await answer(store, key) == "ok"
            place.revoke(kid_of(key))
            await until("the end of the cache", lambda: refused(store, key, "invalid_api_key"), 5)

    asyncio.run(go())


def test_what_changed_while_nobody_listened_is_asked_for_again(place: Place) -> None:
    key = place.put()

    async def go() -> None:
        async with place.store() as store:
            assert await answer(store, key) == "ok"
            with place.postgres.admin(place.database) as conn, conn.transaction():
                # The news comes with the commit; by then nobody listens.
                conn.execute("UPDATE gateway.api_key SET revoked_at = now()")
                conn.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                    "WHERE application_name = 'mcpstack-gateway-listen' AND datname = current_database()"
                )
            await until("the revocation", lambda: refused(store, key, "invalid_api_key"), 10)

    asyncio.run(go())


def test_an_answer_from_before_a_change_is_not_kept(place: Place) -> None:
    key = place.put()
    kid = kid_of(key)

    async def go() -> None:
        async with place.store() as store:
            plain, asked = store._run, 0

            async def slow(query: str, values: tuple[Any, ...], fetch: bool = True) -> list[Any]:
                nonlocal asked
                rows = await plain(query, values, fetch)
                asked += 1
                if asked == 1:  # the row has been read, the key is revoked, the news overtakes the answer
                    place.revoke(kid)
                    await until("the news", lambda: store._unknown.asking[kid].changed)
                return rows

            store._run = slow  # type: ignore[method-assign]
            assert await answer(store, key) == "invalid_api_key"
            assert asked == 2

    asyncio.run(go())


def test_noise_on_the_channel_does_no_harm(place: Place) -> None:
    key = place.put()

    async def go() -> None:
        async with place.store() as store:
            assert await answer(store, key) == "ok"
            for payload in ("", "x" * 7000, "'; DROP TABLE gateway.api_key; --"):
                place.sql("SELECT pg_notify('mcpstack_keys', %s)", payload)
            place.sql("SELECT pg_notify('mcpstack_keys', %s)", kid_of(key))
            await until("the news", lambda: kid_of(key) not in store._cache)
            assert await answer(store, key) == "ok"
            assert store.listening

    asyncio.run(go())


# Guessing


def test_a_guess_costs_the_same_whatever_is_wrong_with_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work is counted, not time: hashes, comparisons and questions to Postgres are all that takes long enough."""
    support.swap_secret(place.pepper_path, f"2:{'6b' * 32}\n1:{support.PEPPER}")
    active, idle, revoked, expired, rotated = (place.put(name=f"key {n}") for n in range(5))
    place.revoke(kid_of(revoked))
    place.sql("UPDATE gateway.api_key SET expires_at = now() - interval '1 d' WHERE kid = %s", kid_of(expired))
    for _ in range(3):
        place.rotate(kid_of(rotated), "1h")
    work: Counter[str] = Counter()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*values: Any, **more: Any) -> Any:
            work[name] += 1
            return function(*values, **more)

        return run

    monkeypatch.setattr(apikey, "digest", counted("hash", apikey.digest))
    monkeypatch.setattr(keys.hmac, "compare_digest", counted("comparison", hmac.compare_digest))

    async def go() -> dict[str, set[tuple[tuple[str, int], ...]]]:
        found: dict[str, set[tuple[tuple[str, int], ...]]] = {}
        async with place.store() as store:
            store._run = counted("question", store._run)  # type: ignore[method-assign]
            for known in (active, rotated):
                assert await answer(store, known) == "ok"  # in the cache from here on
            work.clear()
            assert await answer(store, active) == "ok"
            assert work == {"hash": 2, "comparison": 4}  # one that is right is spared the question
            cases = {"nobody's": None, "active": active, "idle": idle, "revoked": revoked, "expired": expired,
                     "rotated": rotated}  # fmt: skip
            for _ in range(40):
                for name in secrets.SystemRandom().sample(sorted(cases), len(cases)):
                    whose = cases[name]
                    guess = support.make_key(kid=kid_of(whose) if whose else None)
                    work.clear()
                    assert await answer(store, guess) == "invalid_api_key"
                    found.setdefault(name, set()).add(tuple(sorted(work.items())))
        return found

    every = asyncio.run(go())
    same = {(("comparison", 8), ("hash", 2), ("question", 1))}
    assert every == dict.fromkeys(("nobody's", "active", "idle", "revoked", "expired", "rotated"), same)


def test_a_guess_learns_nothing_while_postgres_is_away(place: Place) -> None:
    key = place.put()

    async def go() -> None:
        async with place.store(key_cache_seconds=0) as store:
            assert await answer(store, key) == "ok"
            await store._pool.close(timeout=1)
            assert await answer(store, key) == "ok"  # the grace
            guesses = [support.make_key(kid=kid_of(key)), support.make_key()]
            assert [await answer(store, guess) for guess in guesses] == ["auth_unavailable"] * 2

    asyncio.run(go())


def test_closing_does_not_wait_for_a_server_that_does_not_answer(
    stack: Stack, place: Place, cable: Callable[[int], Cable], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "_HEARTBEAT", 0.05)
    line = cable(stack.postgres.port)
    key = place.put()

    async def go() -> None:
        store = KeyStore(replace(place.settings, db_port=line.port), place.secrets)
        await store.prepare()
        await until("the store to listen", lambda: store.listening)
        assert await answer(store, key) == "ok"
        line.freeze()
        guess = support.make_key()
        assert await answer(store, guess) == "auth_unavailable"  # and its question is still on the way
        async with asyncio.timeout(8):
            await store.close()

    asyncio.run(asyncio.wait_for(go(), 15))
    line.plug()


def test_guesses_are_not_remembered(place: Place) -> None:
    async def go() -> None:
        async with place.store() as store:
            for _ in range(50):
                assert await answer(store, support.make_key()) == "invalid_api_key"
            lane = store._unknown
            assert (len(store._cache), lane.waiting, lane.asking, store._used) == (0, {}, {}, {})

    asyncio.run(go())


def test_guesses_together_are_one_question_and_do_not_shut_out_those_who_may(place: Place) -> None:
    seen, unseen = place.put(), place.put(name="unseen")

    async def go() -> None:
        async with place.store(key_cache_seconds=0) as store:
            assert await answer(store, seen) == "ok"
            plain, asked = store._run, []

            async def counted(query: str, values: tuple[Any, ...], fetch: bool = True) -> list[Any]:
                asked.append(len(values[1]))
                return await plain(query, values, fetch)

            store._run = counted  # type: ignore[method-assign]
            texts = [support.make_key() for _ in range(1200)] + [seen, unseen]
            codes = await asyncio.gather(*(answer(store, text) for text in texts))
            assert codes == ["invalid_api_key"] * 1200 + ["ok", "ok"]
            assert sorted(asked) == [1, 201, 500, 500]  # the one whose key is right did not queue

    asyncio.run(go())


def test_the_last_use_is_noted_for_each_secret(place: Place) -> None:
    old = place.put()
    new = place.rotate(kid_of(old), "1h")

    async def go() -> None:
        async with place.store() as store:
            assert await answer(store, new) == "ok"
            await store.write_last_used()
            await asyncio.sleep(0)
            assert kid_of(new) in store._cache  # the note is no news

    asyncio.run(go())
    used = place.sql("SELECT last_used_at IS NOT NULL FROM gateway.api_key_secret ORDER BY id")
    assert used == [(False,), (True,)]
