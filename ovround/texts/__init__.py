"""Texts and chats for calibration and evaluation, from files and data sets of the hub."""

from ovround.texts.documents import Document, Render, read_documents
from ovround.texts.records import Chat

__all__ = ["Chat", "Document", "Render", "read_documents"]
