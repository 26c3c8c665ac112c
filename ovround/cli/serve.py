"""`ovround serve`: the model over HTTP, as OpenAI's API has it, with a chat page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ovround.cli.model_argument import Model, with_model
from ovround.cli.shared_flags import Bits, Device, DraftModel, Exact, Format, Kernel, PromptLookup, Quiet, Verify
from ovround.cli.working import Working
from ovround.errors import MissingExtraError

NAME = "serve"


def command(
    model: Model,
    host: Annotated[
        str, typer.Option(envvar="OVROUND_HOST", help="Address to listen on; 0.0.0.0: every one.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(envvar="OVROUND_PORT", help="Port; 0: any that is free.")] = 8000,
    api_key: Annotated[
        str | None, typer.Option(envvar="OVROUND_API_KEY", help="Key that requests must carry; default: none needed.")
    ] = None,
    model_name: Annotated[
        str | None,
        typer.Option(
            envvar="OVROUND_MODEL_NAME", help="What clients call the model; default: its name, of a folder its own."
        ),
    ] = None,
    device: Device = "CPU",
    exact: Exact = False,
    kernel: Kernel = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: the engine's own choice.")] = None,
    engine: Annotated[
        str,
        typer.Option(
            envvar="OVROUND_ENGINE",
            help="Engine: batching (many answers at once), single (one at a time, every request field), or auto.",
        ),
    ] = "auto",
    cache_gib: Annotated[int, typer.Option(help="KV cache of the batching engine in GiB; 0: it grows as needed.")] = 0,
    prompt_lookup: PromptLookup = False,
    draft_model: DraftModel = None,
    bits: Bits = None,
    format: Format = None,  # noqa: A002  the flag's name
    verify: Verify = True,
    max_running: Annotated[int, typer.Option(help="Most answers computed at once.")] = 64,
    max_waiting: Annotated[int, typer.Option(help="Most answers that wait; beyond: status 429.")] = 256,
    max_body_bytes: Annotated[int, typer.Option(help="Largest request body; beyond: status 413.")] = 4 * 2**20,
    request_timeout: Annotated[int, typer.Option(help="Seconds that an answer may take.")] = 600,
    tool_parser: Annotated[
        str | None,
        typer.Option(help="Format of the model's tool calls, such as hermes; default: that of its chat template."),
    ] = None,
    metrics_prefix: Annotated[
        str, typer.Option(help="Of the names at /metrics; `vllm:` fits dashboards for vLLM.")
    ] = "ovround_",
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse unknown request fields; default: ignored, named once in the log.")
    ] = False,
    allowed_origins: Annotated[
        str, typer.Option(help="Origins of web pages that may call the server, by commas, or *; default: its own page.")
    ] = "",
    quiet: Quiet = False,
) -> None:
    """Serve MODEL at http://HOST:PORT/v1, and a chat page at http://HOST:PORT."""
    try:
        from ovround.runtime.server.launcher import listen, open_engine_client, serve
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "fastapi", "serve") from error
    from ovround.runtime.server.engine_choice import EngineChoice, choose_engine
    from ovround.runtime.server.engine_client import EngineClient
    from ovround.runtime.server.settings import EngineOptions, ServerSettings

    settings = ServerSettings(
        model_name or _name(model), api_key=api_key, max_body_bytes=max_body_bytes, max_running=max_running,
        max_waiting=max_waiting, request_timeout_s=request_timeout, tool_parser=tool_parser, metrics_prefix=metrics_prefix,
        strict=strict, allowed_origins=tuple(origin.strip() for origin in allowed_origins.split(",") if origin.strip()),
    )  # fmt: skip
    options = EngineOptions(
        engine, device, exact=exact, threads=threads, cache_gib=cache_gib, draft_model=draft_model,
        prompt_lookup=prompt_lookup, verify=verify, kernel=kernel,
    )  # fmt: skip
    with listen(host, port) as bound:

        def load(folder: Path) -> tuple[EngineChoice, EngineClient]:
            with Working(f"loading {model}", quiet=quiet):
                choice = choose_engine(folder, options)
                return choice, open_engine_client(folder, settings, options, choice)

        choice, engine_client = with_model(model, load, bits, format, device, quiet=quiet)
        address = f"[{host}]" if ":" in host else host
        slots = f"up to {max_running} answers at once" if choice.name == "batching" else "one answer at a time"
        print(
            f"{settings.model_name}: http://{address}:{bound.getsockname()[1]}\n"
            f"engine: {choice.name}, {slots} ({choice.reason}); Ctrl-C stops\n"
            f"tool calls: {engine_client.chat_syntax.describe()}",
            file=sys.stderr,
            flush=True,
        )
        serve(engine_client, bound)


def _name(model: str) -> str:
    """What clients call the model where nothing is stated: a folder or file by its own name, a hub name as it is."""
    path = Path(model).expanduser()
    return path.resolve().name if path.exists() else model
