"""Looks for what makes a folder slow, wrong or unreadable on an engine, before anybody waits for it or believes it."""

from ovround.check.finding import Finding
from ovround.check.folder import ENGINES, check_folder

__all__ = ["ENGINES", "Finding", "check_folder"]
