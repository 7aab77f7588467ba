"""From the YAML files to specifications, with every problem at once, each with its file, line and path.

``source`` reads YAML and remembers places, ``schema`` says what is allowed, ``load`` checks it all together, ``plan``
makes the specifications, ``hub`` looks for what is not downloaded yet. Nothing here starts, binds or writes anything.
"""

from llm_supervisor.config.downloads import engine_environ, not_cached, repositories_of
from llm_supervisor.config.last_good import keep, restore
from llm_supervisor.config.load import Config, load
from llm_supervisor.config.plan import Plan, groups_of, plan
from llm_supervisor.config.source import ConfigError, Problem

__all__ = [
    "Config",
    "ConfigError",
    "Plan",
    "Problem",
    "engine_environ",
    "groups_of",
    "keep",
    "load",
    "not_cached",
    "plan",
    "repositories_of",
    "restore",
]
