"""What LiteLLM makes of a configuration, without serving it. Run by path with the Python of LiteLLM's own environment.

Standard library and litellm only. Reads a JSON object on standard input: ``config`` (the content of the file),
``modules`` (a folder in which Python modules of it may be); without ``config`` only the providers are asked for. Writes
a JSON object: ``providers`` (the names that LiteLLM knows), ``refused`` (what ends the loading, each with ``type``,
``text``, ``at`` and ``where``), ``said`` (complaints that do not end it, each with ``text`` and ``where``),
``kept_from`` (what the loading wanted to do and was not allowed to: then a refusal proves nothing), and ``files``
(modules outside of LiteLLM's environment that were read).

Nothing may come of it: the process has a network of its own without any address where the kernel allows that, its
Python opens no connection, starts no process and writes no file elsewhere than in a folder that is removed, and it ends
without the usual handlers.
"""

from __future__ import annotations

import asyncio
import copy
import ctypes
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Any

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
ROUNDS = 6  # how often a configuration is loaded at most
LONGEST = 1200  # characters of a complaint
# What is only said in passing: warnings about things that are left out or misunderstood are worth a person's time
TELLING = re.compile(r"ignor|skipp|invalid|not a valid|not valid|unknown|could not|failed|leaving out|dropp|WITHOUT")
NOISE = re.compile(r"model cost map|trusted_proxy_ranges|LITELLM_MASTER_KEY is not set|deprecat|salt.?key", re.I)
# Settings whose modules are loaded by name are in these locals of LiteLLM's functions
ENTRIES = ("guardrail", "model", "prompt", "deployment", "item", "endpoint", "vector_store")
Where = list[str | int]
Hint = tuple[str, str]  # a value, and the key that it has in the file where that is known
CACHE: Where = ["litellm_settings", "cache"]


class Kept(PermissionError):
    """The loading wanted to do what a dry run must not do."""


class Guard:
    """Refuses everything that would have an effect outside of this process, and remembers that it did."""

    def __init__(self, folder: str) -> None:
        self.folder = os.path.realpath(folder)
        self.wanted: list[str] = []
        self.refusals = 0
        self.read: set[str] = set()
        self.on = False

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname", "socket.bind"):
            self.refuse("use the network")
        elif event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty"):
            self.refuse("start another program")
        elif event == "open" and isinstance(args[0], (str, bytes)):
            self._open(os.fsdecode(args[0]), args[2])
        elif event in ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree"):
            self._change(args[0])

    def _open(self, path: str, flags: int) -> None:
        if path.endswith(".py"):
            self.read.add(path)
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        if writes and not path.startswith(("/dev/", "/proc/")) and not self._is_inside(path):
            self.refuse("write a file")

    def _change(self, path: object) -> None:
        if not (isinstance(path, (str, bytes)) and self._is_inside(os.fsdecode(path))):
            self.refuse("change files")

    def _is_inside(self, path: str) -> bool:
        whole = os.path.realpath(path)
        return whole == self.folder or whole.startswith(self.folder + os.sep)

    def refuse(self, what: str) -> None:
        """Refuse it. Raises Kept."""
        self.refusals += 1
        if what not in self.wanted:
            self.wanted.append(what)
        raise Kept(1, f"a dry run must not {what}")


def leave_the_network() -> None:
    """Have a network of our own, without any address. Where the kernel does not allow it, the guard alone is there."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) == 0:
        return
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        return
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        try:
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
        except OSError:
            continue


class Listener(logging.Handler):
    """Collects what LiteLLM complains of while it loads."""

    def __init__(self, guard: Guard) -> None:
        super().__init__(logging.WARNING)
        self.guard, self.refusals = guard, 0
        self.content: Any = {}
        self.said: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        refused_since = self.guard.refusals != self.refusals  # what it complains of came of that
        self.refusals = self.guard.refusals
        try:
            text = record.getMessage()
        except Exception:
            return
        reasons = [one for one in record.args if isinstance(one, BaseException)] if type(record.args) is tuple else []
        if record.exc_info and record.exc_info[1] is not None:
            reasons.append(record.exc_info[1])
        if refused_since or any(was_kept(one) for one in reasons) or NOISE.search(text) or "a dry run must not" in text:
            return
        if record.levelno < logging.ERROR and not TELLING.search(text):
            return
        hints = [("", str(one)) for one in record.args] if type(record.args) is tuple else []
        where = place(self.content, text, [hint for one in reasons for hint in hints_of(one.__traceback__)] + hints)
        self.said.append({"text": short(text), "where": where})


def was_kept(error: BaseException | None) -> bool:
    """Whether an exception came of something that a dry run must not do."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, Kept):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def short(text: str) -> str:
    """The text in one line, without a traceback and without escape sequences for colours."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text).partition("Traceback (most recent call last)")[0]
    return " ".join(plain.split())[:LONGEST]


def hints_of(trace: TracebackType | None) -> list[Hint]:
    """Values that LiteLLM's functions had in hand when they failed, the innermost first."""
    found: list[Hint] = []
    frames = [frame for frame, _ in traceback.walk_tb(trace) if "litellm" in frame.f_code.co_filename]
    for frame in reversed(frames):
        held = frame.f_locals
        for name in ("value", "callback", "custom_auth", "k", "key", "guardrail_type"):
            if isinstance(held.get(name), str):
                found.append(("", held[name]))
        # what it had in hand in a loop that is over says nothing
        for name in ENTRIES if frame is frames[-1] or frame.f_code.co_name != "load_config" else ():
            entry = held.get(name)
            entry = entry if isinstance(entry, dict) else {}
            found += [(key, str(entry[key])) for key in ("guardrail_name", "model_name", "prompt_id") if entry.get(key)]
        found.append(("", os.path.basename(frame.f_code.co_filename).removesuffix(".py")))
    return found


def scalars(value: Any, where: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every value of a configuration that is no mapping and no list, with its place."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from scalars(item, (*where, str(key)))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from scalars(item, (*where, index))
    else:
        yield where, value


def at(value: Any, where: Where) -> bool:
    """Whether the configuration has something at that place."""
    for part in where:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return False
    return True


QUOTED = re.compile(r"'([^'\n]{2,200})'|`([^`\n]{2,200})`|\"([^\"\n]{2,200})\"")
# Too many places have these for them to tell one
ORDINARY = frozenset("model api_key type name value key true false none str int dict list proxy litellm error".split())


def place(content: Any, text: str, hints: list[Hint]) -> Where | None:
    """The place in the configuration that a complaint is about: one that it names with dots, a value that it quotes,
    what LiteLLM had in hand, then a key that it names. None where nothing of the file is in it."""
    for words in re.findall(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+", text):
        parts: Where = list(words.split("."))
        if at(content, parts):
            return parts
    values = [(where, str(value)) for where, value in scalars(content) if not isinstance(value, bool)]
    if imported := re.search(r"Could not import (\S+) from (\S+)", text):
        hints = [("", f"{imported[2]}.{imported[1]}"), *hints]
    quoted = [one for pair in QUOTED.findall(text) for one in pair]
    for of, word in [*(("", one) for one in quoted if one)][:3] + hints:
        for where, value in values:
            if value == word and of in ("", where[-1]) and word.lower() not in ORDINARY:
                return list(where)
    places = [where for where, _ in scalars(content)]
    keys = {key: where[: where.index(key) + 1] for where in places for key in where if isinstance(key, str)}
    named = [key for key in keys if len(key) > 4 and key not in ORDINARY and re.search(rf"\b{re.escape(key)}\b", text)]
    named += [hint for _, hint in hints if hint in keys and hint not in ORDINARY] if not named else []
    if named:
        return list(keys[max(named, key=len) if named[0] in text else named[0]])
    lowered = text.lower()
    near = [(where, value) for where, value in values if len(value) > 4 and value.lower() in lowered]
    near = [(where, value) for where, value in near if value.lower() not in ORDINARY]
    if near:
        return list(max(near, key=lambda one: len(one[1]))[0])
    return CACHE if "redis" in lowered and at(content, CACHE) else None


def providers() -> list[str]:
    """Every name that LiteLLM takes for a provider's in front of a model."""
    import litellm

    found = {str(getattr(one, "value", one)) for one in litellm.provider_list}
    found |= {str(one) for one in getattr(litellm, "openai_compatible_providers", ())}
    try:
        from litellm.llms.openai_like.json_loader import JSONProviderRegistry

        found |= set(JSONProviderRegistry.list_providers())
    except (ImportError, AttributeError):
        pass  # another version has none
    return sorted(found)


def take_for_licensed(proxy: Any) -> None:
    """A licence that is there counts: whether it is valid only LiteLLM's makers can say, and they are not asked."""
    if os.environ.get("LITELLM_LICENSE"):
        proxy._license_check.is_premium = lambda: True
        proxy.premium_user = True


async def load(proxy: Any, file: str) -> Any:
    """What the application does with its file when it starts, up to where a database would be asked."""
    router, _, settings = await proxy.proxy_config.load_config(router=None, config_file_path=file)
    proxy.llm_router = router
    startup = getattr(proxy, "ProxyStartupEvent", None)
    buffered = getattr(startup, "validate_redis_transaction_buffer_config", None)
    if buffered is not None:
        buffered(general_settings=settings or {}, redis_usage_cache=proxy.redis_usage_cache)
    logged = getattr(startup, "initialize_startup_logging", None)
    if logged is not None:
        logged(llm_router=router, proxy_logging_obj=proxy.proxy_logging_obj, redis_usage_cache=proxy.redis_usage_cache)
    return router


def left_out(
    content: dict[str, Any], router: Any, said: list[dict[str, Any]], *, certain: bool
) -> Iterator[dict[str, Any]]:
    """The deployments that LiteLLM does not have. Why, it has said meanwhile; where it has not, it may have wanted what
    a dry run must not do, unless that is ``certain``."""
    there = [(one.get("model_name"), one["litellm_params"].get("model")) for one in router.model_list] if router else []
    for index, entry in enumerate(content.get("model_list") or []):
        name, params = entry.get("model_name"), entry.get("litellm_params") or {}
        pair = (name, params.get("model"))
        if pair in there:
            there.remove(pair)
        elif not any("os.environ/" in str(one) for one in pair):
            why = next((one for one in said if str(pair[1]) in one["text"]), None)
            if why is not None:
                said.remove(why)
            elif not certain:
                continue
            text = f"this deployment of {name} is left out. {why['text'] if why else ''}".strip()
            yield {"text": text, "where": ["model_list", index, "litellm_params", "model"]}


def without(content: Any, gone: list[Where]) -> Any:
    """A copy of the configuration without the parts at these places."""
    whole = copy.deepcopy(content)
    for where in sorted(gone, key=repr, reverse=True):
        inner = whole
        for part in where[:-1]:
            inner = inner[part]
        del inner[where[-1]]
    return whole


def restored(where: Where, gone: list[Where]) -> Where:
    """The place in the whole configuration of what is at ``where`` without the parts that are gone."""
    found: Where = []
    for part in where:
        if isinstance(part, int):
            for index in sorted(one[-1] for one in gone if one[:-1] == found and isinstance(one[-1], int)):
                part += index <= part
        found.append(part)
    return found


def unit(where: Where) -> Where:
    """The part of the configuration that LiteLLM can do without, where it does not take the value at that place."""
    if where[:2] == ["litellm_settings", "cache_params"]:
        return CACHE
    first = next((index for index, part in enumerate(where) if isinstance(part, int)), None)
    return where[: 2 if first is None else first + 1]


def try_to_load(content: dict[str, Any], file: str, guard: Guard, listener: Listener) -> dict[str, Any] | None:
    """Load a configuration once: None, or what ended it. ``listener`` gets all other complaints."""
    from litellm.proxy import proxy_server as proxy

    with open(file, "w") as out:
        json.dump(content, out)  # JSON is YAML, too
    listener.content, guard.on = content, True
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        # what else was begun (asking an MCP server) is left where it is: to cancel it can take for ever
        router = loop.run_until_complete(load(proxy, file))
    except BaseException as error:
        if was_kept(error):
            return {"kept": True}
        frames = traceback.extract_tb(error.__traceback__)
        last = next((one for one in reversed(frames) if "site-packages" in one.filename), frames[-1])
        text = short(str(error))
        if isinstance(error, KeyError) and "os" in frames[-1].filename and frames[-1].name == "__getitem__":
            text = f"the variable {error.args[0]} is not set"
        return {
            "type": type(error).__name__,
            "text": text,
            "at": f"{last.filename.split('site-packages/')[-1]}:{last.lineno}",
            "where": place(content, text, hints_of(error.__traceback__)),
        }
    finally:
        guard.on = False
    listener.said += list(left_out(content, router, listener.said, certain=not guard.refusals))
    return None


def dry_run(question: dict[str, Any], folder: str, guard: Guard) -> dict[str, Any]:
    """Load the configuration, and say what came of it. Where LiteLLM does not start with a part of it, it is loaded
    again without that part, so that all is named at once."""
    if question.get("modules"):
        sys.path.append(question["modules"])
    from litellm.proxy import proxy_server as proxy

    take_for_licensed(proxy)
    listener = Listener(guard)
    for name in ("LiteLLM", "LiteLLM Proxy", "LiteLLM Router"):
        logging.getLogger(name).addHandler(listener)
    file = os.path.join(folder, "litellm_config.yaml")
    os.environ["CONFIG_FILE_PATH"] = file
    answer: dict[str, Any] = {"providers": providers(), "refused": [], "said": []}
    gone: list[Where] = []
    for _ in range(ROUNDS):
        environ = dict(os.environ)
        refused = try_to_load(without(question["config"], gone), file, guard, listener)
        os.environ.clear()
        os.environ.update(environ)
        if refused is not None and "kept" in refused:
            answer["kept_from"] = guard.wanted
            break
        for one in listener.said:
            told = {**one, "where": restored(one["where"] or [], gone)}
            # what was said of a deployment is said again, with its name, when it is known to be left out
            same = [old for old in answer["said"] if old["text"] in told["text"]]
            answer["said"] = [old for old in answer["said"] if old not in same] + [told]
        listener.said = []
        if refused is None:
            break
        where = restored(refused["where"] or [], gone)
        answer["refused"].append({**refused, "where": where})
        if len(where) < 2 or unit(where) in gone:
            break
        gone.append(unit(where))
    ends = [one["text"] for one in answer["refused"]]
    answer["said"] = [one for one in answer["said"] if not any(text in one["text"] for text in ends)]
    bases = [os.path.realpath(one) + os.sep for one in (sys.prefix, sys.base_prefix, os.path.dirname(__file__))]
    answer["files"] = sorted(one for one in guard.read if not os.path.realpath(one).startswith(tuple(bases)))
    return answer


def main() -> None:
    out = os.dup(1)
    os.dup2(2, 1)  # what LiteLLM prints is not the answer
    question = json.load(sys.stdin)
    leave_the_network()
    folder = tempfile.mkdtemp(prefix="litellm-dry-run-")
    tempfile.tempdir = folder
    os.chdir(folder)
    guard = Guard(folder)
    sys.addaudithook(guard)
    try:
        answer = dry_run(question, folder, guard) if "config" in question else {"providers": providers()}
    finally:
        guard.on = False
        shutil.rmtree(folder, ignore_errors=True)
    with os.fdopen(out, "w") as file:
        json.dump(answer, file)
    os._exit(0)  # no handler that LiteLLM has registered


if __name__ == "__main__":
    main()
