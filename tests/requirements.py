"""Print the `dev` dependency group of pyproject.toml, for pip versions that cannot read it themselves."""

import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
print("\n".join(f"'{requirement}'" for requirement in project["dependency-groups"]["dev"]))
