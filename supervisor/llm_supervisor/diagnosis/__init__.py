"""Why an engine failed, from its last words: tables of patterns, and a pure matcher that finds the root cause."""

from llm_supervisor.diagnosis.matcher import diagnose, left_out
from llm_supervisor.diagnosis.pattern import Component, Diagnosis, to_message

__all__ = ["Component", "Diagnosis", "diagnose", "left_out", "to_message"]
