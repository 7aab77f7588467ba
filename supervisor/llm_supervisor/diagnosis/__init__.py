"""Why an engine failed, from its last words: tables of patterns, and a pure matcher that finds the root cause."""

from llm_supervisor.diagnosis.match import diagnose
from llm_supervisor.diagnosis.model import Component, Diagnosis, to_message

__all__ = ["Component", "Diagnosis", "diagnose", "to_message"]
