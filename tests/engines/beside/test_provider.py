"""The presets for a provider of one's own on the real LiteLLM: its wire, its limits, and the load shared.

A minute may end while a test runs, and the counters with it: so what is asserted is what holds in two minutes as well.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest

from tests.engines.conftest import Engines, FromPreset
from tests.support.wires import VECTOR, WORDS, OpenAI

pytestmark = pytest.mark.slow

KEY, RPM, TPM = "sk-provider-loopback", 5, 45
TOKENS = 7 + len(WORDS)  # that a request costs
MANY = 12 * RPM
HELLO: Any = [{"role": "user", "content": "hello"}]


@dataclass
class Provider:
    """The gateway, and two servers of the provider."""

    daemon: FromPreset
    wires: tuple[OpenAI, OpenAI]

    def ask(self, http: httpx.Client, group: str) -> httpx.Response:
        body = {"model": group, "messages": HELLO}
        return http.post("/v1/chat/completions", json=body)


@pytest.fixture(scope="module")
def running(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    """The preset's group with a second deployment; beside it groups that are limited in other ways."""
    with OpenAI() as first, OpenAI() as second:

        def more(native: dict[str, Any]) -> None:
            (entry,) = native["model_list"]
            other = copy.deepcopy(entry)
            other["litellm_params"]["api_base"] = second.base
            crowd, free, tokens = ({**copy.deepcopy(entry), "model_name": name} for name in ("crowd", "free", "tokens"))
            free["litellm_params"]["rpm"] = "os.environ/NO_SUCH_LIMIT"
            tokens["litellm_params"] |= {"rpm": "os.environ/NO_SUCH_LIMIT", "tpm": "os.environ/OTHER_TPM"}
            native["model_list"] += [other, crowd, free, tokens]

        keys = {
            "LLM_PROVIDER": "openai", "LLM_MODEL": "some-model", "LLM_PROVIDER_BASE_URL": first.base,
            "LLM_PROVIDER_API_KEY": KEY, "LLM_RPM": str(RPM), "OTHER_TPM": str(TPM),
        }  # fmt: skip
        with FromPreset(tmp_path_factory.mktemp("provider"), engines, "provider", more, keys) as daemon:
            daemon.wait_ready(timeout=120)
            yield Provider(daemon, (first, second))


@pytest.fixture
def provider(running: Provider) -> Provider:
    for wire in running.wires:
        wire.asked.clear()
    return running


def until_refused(ask: Callable[[], object]) -> None:
    """Ask until it is too much."""
    for _ in range(MANY):
        try:
            ask()
        except openai.RateLimitError:
            return
    raise AssertionError(f"{MANY} requests, and none was refused")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_what_reaches_it(provider: Provider, stream: bool) -> None:
    client = provider.daemon.openai()
    if stream:
        chunks = list(client.chat.completions.create(model="free", messages=HELLO, stream=True))
        words = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
        assert [word for word in words if word] == list(WORDS), "piece by piece"
    else:
        answer = client.chat.completions.create(model="free", messages=HELLO)
        assert answer.choices[0].message.content == "".join(WORDS)
    (asked,) = provider.wires[0].asked
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert (asked.body["model"], asked.body["messages"]) == ("some-model", HELLO)
    assert bool(asked.body.get("stream")) == stream


def test_beyond_the_requests_of_a_minute_it_is_429_and_until_then_all_is_shared(provider: Provider) -> None:
    with provider.daemon.http() as http:
        codes = [provider.ask(http, "llm").status_code for _ in range(MANY)]
    assert set(codes) == {200, 429}
    reached = [len(wire.asked) for wire in provider.wires]
    assert sum(reached) == codes.count(200), "what is refused reaches nobody, and nothing is asked twice"
    assert codes.index(429) >= 2 * RPM, "one deployment at its limit is no reason while the other has room"
    assert all(RPM <= count <= 2 * RPM for count in reached), "two minutes at most"
    chat = provider.daemon.openai().chat.completions.create
    until_refused(lambda: chat(model="llm", messages=HELLO))


def test_a_crowd_gets_no_more_than_one_alone_and_is_told_at_once(provider: Provider) -> None:
    with provider.daemon.http() as http, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: provider.ask(http, "crowd"), range(MANY)))
    codes = [answer.status_code for answer in answers]
    assert set(codes) == {200, 429}
    assert RPM <= codes.count(200) == len(provider.wires[0].asked) <= 2 * RPM
    # LiteLLM's own retries of a refused request sleep 1.5 s at least
    assert min(answer.elapsed.total_seconds() for answer in answers if answer.status_code == 429) < 1


@pytest.mark.parametrize(("failing", "status", "asked"), [(1, 200, 2), (2, 200, 3), (99, 500, 3)])
def test_what_fails_is_tried_again(provider: Provider, failing: int, status: int, asked: int) -> None:
    provider.wires[0].failing = failing
    try:
        with provider.daemon.http() as http:
            assert provider.ask(http, "free").status_code == status
        assert len(provider.wires[0].asked) == asked
    finally:
        provider.wires[0].failing = 0


def test_beyond_the_tokens_of_a_minute_it_is_429(provider: Provider) -> None:
    """They are counted when the answer is there, so that one more may be let in."""
    with provider.daemon.http() as http:
        codes = [provider.ask(http, "tokens").status_code for _ in range(MANY)]
    assert set(codes) == {200, 429}
    assert codes.index(429) >= TPM // TOKENS
    assert codes.count(200) == len(provider.wires[0].asked) < MANY


def test_a_limit_that_is_not_set_is_none(provider: Provider) -> None:
    with provider.daemon.http() as http:
        codes = [provider.ask(http, "free").status_code for _ in range(4 * RPM)]
    assert set(codes) == {200}
    assert all(model["state"] == "ready" for model in provider.daemon.status()["models"])


def test_embeddings(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> None:
    with OpenAI() as wire:
        keys = {
            "EMBEDDING_PROVIDER": "openai", "EMBEDDING_MODEL": "some-vectors",
            "EMBEDDING_PROVIDER_BASE_URL": wire.base, "EMBEDDING_PROVIDER_API_KEY": KEY, "EMBEDDING_RPM": str(RPM),
        }  # fmt: skip
        folder = tmp_path_factory.mktemp("embeddings")
        with FromPreset(folder, engines, "embeddings-provider", lambda native: None, keys) as daemon:
            daemon.wait_ready(timeout=120)
            tour = daemon.cli("verify", "--cloud")
            assert (tour.returncode, "3 dimensions" in tour.stdout) == (0, True), tour.stdout
            wire.asked.clear()
            client = daemon.openai()
            rows = client.embeddings.create(model="embedding", input=["one", "two"], encoding_format="float").data
            assert [row.embedding for row in rows] == [VECTOR, VECTOR]
            (asked,) = wire.asked
            assert asked.path == "/v1/embeddings"
            assert asked.headers["authorization"] == f"Bearer {KEY}"
            assert (asked.body["model"], asked.body["input"]) == ("some-vectors", ["one", "two"])
            wire.failing = 1
            assert client.embeddings.create(model="embedding", input="again", encoding_format="float").data
            until_refused(lambda: client.embeddings.create(model="embedding", input="again", encoding_format="float"))
            assert len(wire.asked) <= 2 * RPM + 1, "and the one that failed"
