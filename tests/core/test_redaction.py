"""What is a secret in a text, by its form: in messages, and in the log of an engine."""

from __future__ import annotations

import pytest

from llm_supervisor.redaction import HIDDEN, redact, redact_log

SECRETS = (
    "sk-0123456789abcdef",
    "sk-proj-0123_4567-89ab",
    "hf_AbCdEfGhIjKlMnOpQrSt",
    "AIzaSyA-1234567890",
    "xoxb-123456789012-abc",
)
PLAIN = (
    "hf_hub_download_to_cache_dir",  # a function of huggingface_hub
    "task-0123456789abcdef",
    "disk-usage-is-high",
    "sk-1234",
    "http://127.0.0.1:8000/v1",
)


@pytest.mark.parametrize("secret", SECRETS)
def test_a_key_is_known_by_how_it_begins(secret: str) -> None:
    assert redact(f"say '{secret}', please") == f"say '{HIDDEN}', please"
    assert redact_log(f"say '{secret}', please") == f"say '{HIDDEN}', please"


@pytest.mark.parametrize("text", PLAIN)
def test_what_only_looks_like_one_stays(text: str) -> None:
    assert redact(text) == redact_log(text) == text


def test_what_is_known_as_a_secret_is_hidden_wherever_it_stands() -> None:
    assert redact("a-secret-word in no-secret", ["a-secret-word", "secret"]) == f"{HIDDEN} in no-{HIDDEN}"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("Authorization: Bearer abcdefgh.ijkl", f"Authorization: {HIDDEN}"),
        ("postgresql://me:hunter2@db/x", f"postgresql://{HIDDEN}@db/x"),
        ("api_key='abcd1234', port=5", f"api_key='{HIDDEN}', port=5"),
        ("password: hunter2", f"password: {HIDDEN}"),
    ],
)
def test_what_a_log_says_of_a_secret_in_its_own_words(line: str, shown: str) -> None:
    assert redact_log(line) == shown
    assert redact_log(redact_log(line)) == shown
