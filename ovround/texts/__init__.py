"""Texts and chats for calibration and evaluation, from files and data sets of the hub."""

from ovround.texts.documents import Document, Render, read_documents
from ovround.texts.records import Chat
from ovround.texts.windows import Prefix, cut_windows, text_prefix

__all__ = ["Chat", "Document", "Prefix", "Render", "cut_windows", "read_documents", "text_prefix"]
