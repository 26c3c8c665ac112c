"""`ovround serve` as a Ray Serve deployment: Ray routes requests to the replicas, each of which has one engine.

    OVROUND_FOLDER=out/demo serve run deployment:application

Ray calls `build` in each replica. It returns the server's own application with all its routes.
"""

from __future__ import annotations

import os
from pathlib import Path

from fastapi import FastAPI

from ovround.runtime.server.api_server import create_app
from ovround.runtime.server.launcher import open_engine_client
from ovround.runtime.server.settings import EngineOptions, ServerSettings


def build() -> FastAPI:
    """The server for the folder in OVROUND_FOLDER, with the model loaded in this process."""
    folder = Path(os.environ["OVROUND_FOLDER"]).absolute()
    threads = int(os.environ.get("OVROUND_THREADS", "0")) or None
    options = EngineOptions(os.environ.get("OVROUND_ENGINE", "auto"), threads=threads)
    return create_app(open_engine_client(folder, ServerSettings(model_name=folder.name), options))


if __name__ != "__main__" and os.environ.get("OVROUND_WITHOUT_RAY") is None:
    from ray import serve

    replicas = int(os.environ.get("OVROUND_REPLICAS", "1"))
    deployment = serve.deployment(serve.ingress(build)(), name="ovround", num_replicas=replicas)
    application = deployment.bind()
