"""The configuration that holds at present, the plan that is made from it, and the files that are written from that."""

from __future__ import annotations

from pathlib import Path

import yaml

from llm_supervisor.config import Config, Plan, Problem, plan
from llm_supervisor.config.last_good import known_pythons
from llm_supervisor.config.specs import Pythons
from llm_supervisor.daemon.bootstrap import Bootstrap
from llm_supervisor.host import log
from llm_supervisor.host.files import write_atomically
from llm_supervisor.supervision.resources import find_pythons, master_key

HEAD = "# Made by llm-supervisor from the configuration; changes here are lost.\n"


class ActiveConfig:
    """What holds now. ``problems`` are those of a newer configuration that cannot be used: while there are any, the
    daemon goes on with the last good one.

    Raises Refusal when an engine's interpreter is missing.
    """

    def __init__(self, bootstrap: Bootstrap, config: Config, problems: tuple[Problem, ...] = ()) -> None:
        self._bootstrap = bootstrap
        self._log = log.get()
        self.config, self.problems = config, problems
        self.key_file: Path | None = None  # where the gateway's key is, if the daemon made it
        known = known_pythons(bootstrap.runtime) if bootstrap.former.goes_on() else None
        self.pythons = find_pythons(config, bootstrap.data, known)
        self.plan = self.planned(config, self.pythons)

    @property
    def wants_gpus(self) -> bool:
        """Whether a model names GPUs."""
        return any(model.gpus for model in self.config.root.models.values())

    def planned(self, config: Config, pythons: Pythons) -> Plan:
        """The plan for a configuration, which changes nothing yet but the gateway's key: one is made where there is
        none. Raises OSError when it cannot be stored."""
        key, self.key_file = master_key(config, self._bootstrap.data) if config.root.gateway else ("", None)
        return plan(config, runtime=self._bootstrap.runtime, pythons=pythons, master_key=key)

    def take(self, config: Config, pythons: Pythons, fresh: Plan, problems: tuple[Problem, ...] = ()) -> None:
        """From now on this configuration holds, with these problems of a newer one. Raises OSError when its files
        cannot be written; then the one before holds on."""
        before = (self.config, self.pythons, self.plan, self.problems)
        self.config, self.pythons, self.plan, self.problems = config, pythons, fresh, problems
        try:
            self.write_files()
        except OSError:
            self.config, self.pythons, self.plan, self.problems = before
            raise

    def write_files(self) -> None:
        """Write LiteLLM's configuration, and save this configuration as the last good one unless it has problems.
        Raises OSError."""
        if self.plan.litellm_config is not None:
            text = yaml.safe_dump(dict(self.plan.litellm_config), sort_keys=False, allow_unicode=True)
            write_atomically(self.plan.litellm_file, (HEAD + text).encode())
        if not self.problems:
            self._bootstrap.remember(self.config, self.pythons)

    def warn(self) -> None:
        """Log what is doubtful in the configuration."""
        for problem in self.config.warnings:
            self._log.warning("configuration", problem=str(problem))
