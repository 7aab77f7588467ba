"""What vLLM itself says of the options of models, run by path with the Python of vLLM's own environment.

Reads ``{"models": [{"model", "here", "options": [[NAME, [WORD, ...]], ...], "env": {...}}]}`` from standard input, and
writes one line of JSON for each model: a list of complaints ``{"options": [NAME, ...], "keys": [...], "text",
"choices": [...]}``, or null where vLLM could not be asked. Each model is judged in a process of its own with
its own environment, so that one that hangs or dies costs the others nothing.

Three judges, in the order of a start: the parser of ``vllm serve`` with its validation of objects, the checks after
the parsing and the names of parsers, and last, where ``here`` says that the model's files are on this machine, the
engine's whole configuration. No server, engine or model is started, and no network is used.

An option is to blame when the complaint names it, or is gone without it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import select
import signal
import sys
import time
import traceback
import typing
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import vllm_serve

try:
    from vllm.exceptions import VLLMClientError
except ImportError:  # an older version
    VLLMClientError = ValueError

Option = tuple[str, list[str]]  # a name as the configuration has it, and its words of the command line
Judge = Callable[[Sequence[Option]], "str | None"]

MOST = 12  # complaints of one model
LONGEST = 2000  # characters of a complaint
WITHIN = 60.0  # seconds for one model
# What says that a value is wrong. Others (no network, a missing file of a library) say nothing of the options
FAULTS = (ValueError, TypeError, KeyError, NotImplementedError, AssertionError, VLLMClientError)


class Refused(Exception):
    """The parser does not take it; the text says why."""


# Words --------------------------------------------------------------------------------------------------------


def text_of(error: BaseException) -> str:
    """The words of an exception, in one line where that is possible."""
    if isinstance(error, KeyError) and error.args:
        return str(error.args[0])
    return str(error)


def shorter(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


_DETAILS = re.compile(r"(?s) \[type=\w+, input_value=.*?, input_type=\w+\]")
_HEAD = re.compile(r"^(?:argument (\S+?)(?:/\S+)?: )?(?:\d+ validation errors? for (\S+)\n)?", re.MULTILINE)


def taken_apart(text: str) -> Iterator[tuple[str, str, list[str], str]]:
    """What a complaint consists of, for each thing that is wrong: the option that argparse names, the class of the
    object, the keys that lead to the value, and the words. Pydantic writes several in one text."""
    head = _HEAD.match(text)
    option, kind = (head[1] or "", head[2] or "") if head else ("", "")
    rest = text[head.end() :] if head else text
    if not kind:
        yield option, "", [], shorter(re.sub(r"^Error: | \(parameter=\w+\)$", "", rest))
        return
    rest = re.sub(r"\n +For further information visit \S+", "", _DETAILS.sub("", rest))
    keys: list[str] = []
    for line in rest.splitlines():
        if not line.startswith("  "):
            keys = [part for part in line.strip().split(".") if part]
        elif line.strip():
            yield option, kind, keys, shorter(re.sub(r"^\s*(Value|Assertion) (error|failed), ", "", line))


# The three judges ---------------------------------------------------------------------------------------------


class Asked:
    """One model's options, and what vLLM says of any part of them."""

    def __init__(self, model: str, parser: Any, subcommand: Any) -> None:
        self.model, self.parser, self.subcommand = model, parser, subcommand

    def parsed(self, options: Sequence[Option]) -> Any:
        words = [word for _, words in options for word in words]
        args = self.parser.parse_args([self.subcommand.name, self.model, *words])
        args.model = args.model_tag  # the subcommand does this when it starts
        return args

    def by_parser(self, options: Sequence[Option]) -> str | None:
        """What the parser says."""
        try:
            self.parsed(options)
        except Refused as no:
            return str(no)
        except FAULTS as error:
            return text_of(error) or type(error).__name__
        return None

    def by_validation(self, options: Sequence[Option]) -> str | None:
        """What is checked after the parsing, before anything is loaded."""
        try:
            args = self.parsed(options)
            self.subcommand.validate(args)
            known_parsers(args)
            check_objects(args)
        except (Refused, *FAULTS) as error:
            return text_of(error) or None
        return None

    def by_engine(self, options: Sequence[Option]) -> str | None:
        """What the engine's configuration says, which is made as it is for a start."""
        from vllm import AsyncEngineArgs
        from vllm.usage.usage_lib import UsageContext

        try:
            args = self.parsed(options)
            if getattr(args, "headless", False) or getattr(args, "grpc", False):
                return None
            engine = AsyncEngineArgs.from_cli_args(args)
            engine.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
        except OSError:
            return None  # a file of the hub that is not here; LocalEntryNotFoundError is a ValueError, too
        except FAULTS as error:
            return None if wraps_another_kind(error) else text_of(error) or None
        except Exception:
            return None
        return None


def wraps_another_kind(error: BaseException) -> bool:
    """Whether pydantic only passes on what is no fault of the options."""
    details = getattr(error, "errors", None)
    if not callable(details):
        return False
    causes = [one.get("ctx", {}).get("error") for one in details()]
    return any(isinstance(cause, (OSError, ImportError)) for cause in causes)


def known_parsers(args: Any) -> None:
    """The names of parsers, as the server checks them. Raises KeyError. Plugins bring names of their own; importing
    them is left to the start."""
    for name, plugin, module, manager in (
        ("tool_call_parser", "tool_parser_plugin", "vllm.tool_parsers", "ToolParserManager"),
        ("reasoning_parser", "reasoning_parser_plugin", "vllm.reasoning", "ReasoningParserManager"),
    ):
        wanted = getattr(args, name, None)
        if not wanted or getattr(args, plugin, None):
            continue
        try:
            known = list(getattr(__import__(module, fromlist=[manager]), manager).list_registered())
        except (ImportError, AttributeError):
            continue
        if wanted not in known:
            option = name.replace("_", "-")
            raise KeyError(f"argument --{option}: {wanted} is no {option} of this vLLM; it has {', '.join(known)}")


# Options that the parser leaves as mappings, and the class that vLLM makes of each when it starts
OBJECTS = {"speculative_config": "SpeculativeConfig"}


def check_objects(args: Any) -> None:
    """Keys of mappings that become objects only with the model. Raises KeyError, worded as pydantic does."""
    import vllm.config

    for name, kind in OBJECTS.items():
        value, known = getattr(args, name, None), getattr(vllm.config, kind, None)
        if not isinstance(value, dict) or not dataclasses.is_dataclass(known):
            continue
        fields = {field.name for field in dataclasses.fields(known)}
        wrong = [key for key in value if key not in fields]
        option = name.replace("_", "-")
        if wrong:
            lines = "".join(f"{key}\n  Unexpected keyword argument\n" for key in wrong)
            raise KeyError(f"argument --{option}: {len(wrong)} validation errors for {kind}\n{lines}")
        for key, given in value.items():
            if said := against_type(known, key, given):
                raise KeyError(f"argument --{option}: 1 validation error for {kind}\n{key}\n  {said}\n")


def against_type(kind: Any, key: str, value: object) -> str | None:
    """What pydantic says of a value of one field; None where it takes it, or the field's type cannot be made."""
    import pydantic

    try:
        adapter = pydantic.TypeAdapter(typing.get_type_hints(kind)[key])
    except Exception:
        return None
    try:
        adapter.validate_python(value)
    except pydantic.ValidationError as error:
        return str(error.errors()[0]["msg"])
    except Exception:
        return None
    return None


# Blame --------------------------------------------------------------------------------------------------------


def plain(name: str) -> str:
    """An option's name without what distinguishes its spellings."""
    return name.lstrip("-").partition(".")[0].replace("_", "-").removeprefix("no-")


def to_blame(text: str, option: str, keys: Sequence[str], options: Sequence[Option], judge: Judge) -> list[str]:
    """The names of the options that a complaint is about, the first one foremost; none where no single one is."""
    if option:
        same = [name for name, _ in options if plain(name) == plain(option)]
        dotted = [name for name in same if keys and name.replace("-", "_").endswith("." + keys[0].replace("-", "_"))]
        return dotted or same
    said = text.lower().replace("_", "-")
    without = []
    for one in options:
        rest = [other for other in options if other is not one]
        after = judge(rest)
        if after is None or after != text:
            without.append((said.find(plain(one[0])), one[0], after is None))
    # the ones without which nothing is wrong, those that the text names before the others
    without.sort(key=lambda found: (not found[2], found[0] < 0, found[0]))
    return [name for _, name, _ in without]


def fields_of(kind: str) -> list[str]:
    """The keys of one of vLLM's objects, by the name of its class."""
    import vllm.config

    known = getattr(vllm.config, kind, None)
    return [field.name for field in dataclasses.fields(known) if field.init] if dataclasses.is_dataclass(known) else []


def complaints(options: Sequence[Option], judges: Sequence[Judge]) -> list[dict[str, Any]]:
    """Everything that is wrong: what is to blame for one complaint is left out, and the rest is judged again. A later
    judge is asked only when the one before has nothing to say."""
    left: list[Option] = list(options)
    found: list[dict[str, Any]] = []
    gone: list[str] = []
    for judge in judges:
        before = len(found)
        while len(found) < MOST and (text := judge(left)) is not None:
            said = text.lower().replace("_", "-")
            if any(f"{mark}{plain(name)}" in said for name in gone for mark in ("--", "argument ")):
                return found  # it wants an option that was left out for another complaint
            blamed: list[str] = []
            for option, kind, keys, words in taken_apart(text):
                blamed = to_blame(text, option, keys, left, judge)
                unknown = "Unexpected keyword" in words
                found.append(
                    {"options": blamed, "keys": keys, "text": words, "choices": fields_of(kind) if unknown else []}
                )
            if not blamed:
                return found
            gone.append(blamed[0])
            left = [one for one in left if one[0] != blamed[0]]
        if len(found) > before:
            break
    return found


# Processes ----------------------------------------------------------------------------------------------------


def prepare() -> tuple[Any, Any]:
    """The parser, which raises instead of ending the process, and the subcommand."""
    parser, subcommand = vllm_serve.command_line()

    def refuse(message: str) -> typing.NoReturn:
        raise Refused(message)

    inner = next(action.choices[subcommand.name] for action in parser._actions if action.dest == "subparser")
    parser.error = inner.error = refuse
    return parser, subcommand


def judged(asked: dict[str, Any], parser: Any, subcommand: Any) -> list[dict[str, Any]]:
    """The complaints about one model."""
    os.environ.clear()
    os.environ.update(asked["env"])
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    one = Asked(asked["model"], parser, subcommand)
    judges: list[Judge] = [one.by_parser, one.by_validation]
    if asked["here"] and has_device():
        judges.append(one.by_engine)
    return complaints([(name, list(words)) for name, words in asked["options"]], judges)


def has_device() -> bool:
    """Whether vLLM knows what it would run on: without that, it refuses every configuration."""
    from vllm.platforms import current_platform

    return bool(current_platform.device_type)


def apart(work: Callable[[], object]) -> object:
    """What that returns in a process of its own; None where it does not return within ``WITHIN``."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        try:
            answer = json.dumps(work()).encode()
            while answer:
                answer = answer[os.write(write, answer) :]
        except BaseException:
            traceback.print_exc()
        os._exit(0)
    os.close(write)
    said, end = b"", time.monotonic() + WITHIN
    while select.select([read], [], [], max(end - time.monotonic(), 0))[0]:
        part = os.read(read, 65536)
        if not part:
            break
        said += part
    os.close(read)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    try:
        return json.loads(said)
    except ValueError:
        return None


def main() -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what is printed on the way is not the answer
    asked = json.load(sys.stdin)["models"]
    vllm_serve.set_up_environment()
    parser, subcommand = prepare()
    for one in asked:
        print(json.dumps(apart(partial(judged, one, parser, subcommand))), file=out, flush=True)


if __name__ == "__main__":
    main()
