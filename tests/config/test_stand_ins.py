"""Words in the place of a key that are none, and texts that only refer to one: nothing is hidden, or warned of."""

from __future__ import annotations

import pytest

from llm_supervisor.redaction import secrets_in

NONE = """no-key|EMPTY|sk-no-key-required|fake-key|sk-placeholder|sk-local|dummy-key|lm-studio|not-used|unused|ollama
sk-dummy|sk-fake-key|not_required|no key needed|none|NA|llama.cpp|your-api-key|<your-api-key>|YOUR_API_KEY|sk-xxxx
anything|Bearer no-key|vllm|localai|Bearer os.environ/TOKEN|os.environ/TOKEN|Basic os.environ/USER:os.environ/PASS"""
REAL = """sk-x|abc|hunter2|sk-1234|test1|sk-local-7f|key|token|Bearer sk-abc|Bearer sk-abc os.environ/X|s3cr3t|x
os.environ/A-and-more|nokey1|localhost2|sk-ant-api03-abc"""


@pytest.mark.parametrize("text", NONE.replace("\n", "|").split("|"))
def test_no_key(text: str) -> None:
    assert list(secrets_in({"litellm_params": {"api_key": text}})) == []
    assert list(secrets_in({"headers": {"Authorization": text}})) == []


@pytest.mark.parametrize("text", REAL.replace("\n", "|").split("|"))
def test_a_key_however_odd(text: str) -> None:
    assert [found for _, found in secrets_in({"litellm_params": {"api_key": text}})] == [text]


@pytest.mark.parametrize("name", ["master_key", "redis_password", "LITELLM_SALT_KEY", "client_secret"])
@pytest.mark.parametrize("text", ["sk-local", "no-key", "lm-studio", "xxxx"])
def test_the_same_words_where_they_open_something(name: str, text: str) -> None:
    assert [found for _, found in secrets_in({name: text})] == [text]
