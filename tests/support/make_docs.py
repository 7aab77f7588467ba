"""Write what is generated in the documents: `make docs`.

Each generated text stands between two markers, `<!-- NAME:begin -->` and `<!-- NAME:end -->`; everything else in a
document is written by hand. tests/test_documents.py compares the documents with what this script would write.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from tests.core import diagram
from tests.support import make_configuration_md, make_rules_md, make_troubleshooting_md

ROOT = Path(__file__).parents[2]
# The document, the name of its markers, and what stands between them
GENERATED: tuple[tuple[str, str, Callable[[], str]], ...] = (
    ("docs/configuration.md", "reference", make_configuration_md.reference),
    ("docs/how-it-decides.md", "rules", make_rules_md.table),
    ("docs/how-it-decides.md", "diagram", lambda: diagram.block().strip("\n")),
    ("docs/troubleshooting.md", "failures", make_troubleshooting_md.tables),
)


def between(text: str, name: str) -> str:
    """What stands between the markers of that name. Raises ValueError where they are not there once each."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"{begin} and {end} must be there once each, in this order")
    return text.partition(begin)[2].partition(end)[0]


def replaced(text: str, name: str, content: str) -> str:
    """The text with other content between the markers of that name. Raises ValueError as `between` does."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    old = between(text, name)
    return text.replace(begin + old + end, begin + content + end)


def content(name: str, made: Callable[[], str]) -> str:
    """What is written between the markers: the diagram as its own script writes it, the rest with empty lines."""
    return f"\n{made()}\n" if name == "diagram" else f"\n\n{made()}\n"


def main() -> int:
    """Write every document. The exit status is 2 where markers are missing."""
    for document, name, made in GENERATED:
        file = ROOT / document
        text = file.read_text(encoding="utf-8")
        try:
            new = replaced(text, name, content(name, made))
        except ValueError as error:
            print(f"{document}: {error}", file=sys.stderr)
            return 2
        if new != text:
            file.write_text(new, encoding="utf-8")
            print(f"{document}: {name} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
