"""What the configured models download from a hub, and what of it is not in the caches of their engines yet.

Only looks at folders; no hub is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llm_supervisor.config import schema, yaml_reader
from llm_supervisor.config.config import Config
from llm_supervisor.config.document import Problem
from llm_supervisor.config.environments import of_model
from llm_supervisor.config.option_paths import resolved
from llm_supervisor.engines import hub_cache
from llm_supervisor.engines.hub_cache import Repository
from llm_supervisor.engines.vllm import options as engine_options
from llm_supervisor.host import bounded
from llm_supervisor.units import size_text


def repositories_of(config: Config, model: schema.Model) -> tuple[Repository, ...]:
    """All repositories that the model's engine reads from a hub; none where the model is a folder."""
    if config.model_path(model) is not None:
        return ()
    options = engine_options.by_name(resolved(model.vllm, config.file.parent))
    return hub_cache.repositories(model.model, model.source, options, of_model(config, model))


def fetched(taken: Sequence[Repository]) -> Path | None:
    """The folder to give an engine in the place of the id, where a model from ModelScope is completely downloaded: by
    its id vLLM (0.32) would ask Hugging Face for the model's image processor, and fail. Else None."""
    if len(taken) != 1 or taken[0].source != "modelscope" or not _is_whole(taken[0]):
        return None
    return taken[0].snapshot()


def _is_whole(repository: Repository) -> bool:
    """Whether nothing of it is missing; a disk that does not answer has nothing."""
    try:
        answer = bounded.call(f"the folder {repository.folder}", hub_cache.missing, repository, within=hub_cache.WITHIN)
    except bounded.NoAnswer:
        return False
    return answer is None


def not_cached(config: Config) -> list[Problem]:
    """A warning for every model that its engine would have to download while it starts. A model with
    ``autostart: false`` gets none: there is time to pull it."""
    document, found = yaml_reader.layered(config.files), []
    for alias, model in config.root.models.items():
        lacking = [(one, what) for one in repositories_of(config, model) if (what := hub_cache.lacks(one)) is not None]
        if not lacking or not model.autostart:
            continue
        sizes = [what.size for _, what in lacking]
        known = sum(size for size in sizes if size is not None)
        size = (
            f" ({size_text(known)} at least)" if known and None in sizes else f" ({size_text(known)})" if known else ""
        )
        begun = any(what.files for _, what in lacking)
        ids = list(dict.fromkeys(one.id for one, _ in lacking))
        verb, them = ("is", "it") if len(ids) == 1 else ("are", "them")
        where = lacking[0][0].cache
        variable = hub_cache.offline(of_model(config, model))
        then = f"and {variable} forbids to download {them}" if variable else f"so its start downloads {them}{size}"
        message = f"{' and '.join(ids)} {verb} {'incomplete' if begun else 'not'} in the cache {where},"
        advice = f"before the start: llm-supervisor pull {alias}"
        found.append(document.problem(("models", alias, "model"), f"{message} {then}", advice, warning=True))
    return found
