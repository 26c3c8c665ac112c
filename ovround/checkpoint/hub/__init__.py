"""Reads from the hub by huggingface_hub: what a repository holds, which of it is used, and a download that continues."""

from ovround.checkpoint.hub.download import download, earlier_download
from ovround.checkpoint.hub.listing import HubFile, Repository, list_repository
from ovround.checkpoint.hub.name import HubName

__all__ = ["HubFile", "HubName", "Repository", "download", "earlier_download", "list_repository"]
