"""Helpers that the tests share: programs to supervise, imitations of the engines, and a daemon under test."""
