"""From the YAML files to specifications, with every problem at once, each with its file, line and path.

``document`` holds what ``yaml_reader`` reads, ``schema`` says what is allowed, ``checks`` look for everything else that
is wrong, ``load`` is the sequence of all of it, ``plan`` makes the specifications of the programs, and ``downloads``
looks for models that are not in the cache yet. Nothing here starts, binds or writes anything.
"""

from llm_supervisor.config.config import Config
from llm_supervisor.config.document import ConfigError, Problem
from llm_supervisor.config.downloads import not_cached, repositories_of
from llm_supervisor.config.last_good import keep, restore
from llm_supervisor.config.load import load
from llm_supervisor.config.packages import lacking as lacking_packages
from llm_supervisor.config.packages import needed as needed_packages
from llm_supervisor.config.plan import Plan, groups_of, plan
from llm_supervisor.config.rehearsal import rehearsed

__all__ = [
    "Config",
    "ConfigError",
    "Plan",
    "Problem",
    "groups_of",
    "keep",
    "lacking_packages",
    "load",
    "needed_packages",
    "not_cached",
    "plan",
    "rehearsed",
    "repositories_of",
    "restore",
]
