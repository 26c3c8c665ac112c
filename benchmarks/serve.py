"""Compares `ovround serve` with a direct use of openvino_genai's continuous batching, with many streams at once.

    python benchmarks/serve.py FOLDER --streams 64 --seconds 120

The server runs in its own process. Each client streams one completion after another until the time is up, and each has its own
prompt. Every answer must equal the answer to the same prompt asked alone. Then the same prompts run through
ContinuousBatchingPipeline in a process without a server, for the same time and with the same number of streams. The last line
is one JSON document. The exit status is 1 when an answer is lost or wrong, or the ratio of tokens per second is below --least.
"""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

WORDS = ("Return", "Raise", "Open", "The", "A list", "If", "This module", "When")


def prompts(count: int) -> list[str]:
    return [f"{WORDS[index % len(WORDS)]} {index}" for index in range(count)]


def ask(port: int, prompt: str, new_tokens: int) -> tuple[str, int]:
    """One streamed answer: its text, and its tokens as the server counts them."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    body = {
        "prompt": prompt, "max_tokens": new_tokens, "stream": True, "ignore_eos": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    reply = connection.getresponse()
    assert reply.status == 200, reply.read()
    text, tokens, ended = "", 0, False
    for line in reply:
        if line == b"data: [DONE]\n":
            ended = True
        elif line.startswith(b"data: "):
            event = json.loads(line[6:])
            assert "error" not in event, event
            text += "".join(choice["text"] for choice in event["choices"])
            tokens = event.get("usage", {}).get("completion_tokens", tokens)
    connection.close()
    assert ended, "the stream broke off"
    return text, tokens


def through_server(port: int, streams: int, seconds: float, new_tokens: int) -> dict[str, Any]:
    expected = {prompt: ask(port, prompt, new_tokens)[0] for prompt in prompts(streams)}
    end = time.monotonic() + seconds
    tokens, wrong, lost = [0] * streams, [0] * streams, [0] * streams

    def client(index: int) -> None:
        prompt = prompts(streams)[index]
        while time.monotonic() < end:
            try:
                text, count = ask(port, prompt, new_tokens)
            except (AssertionError, OSError) as error:
                print(f"lost: {error}", file=sys.stderr)
                lost[index] += 1
                continue
            tokens[index] += count
            wrong[index] += text != expected[prompt]

    started = time.monotonic()
    threads = [threading.Thread(target=client, args=(index,)) for index in range(streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.monotonic() - started
    answers = sum(tokens) // new_tokens
    return {"tokens_per_s": sum(tokens) / elapsed, "answers": answers, "wrong": sum(wrong), "lost": sum(lost)}


def directly(folder: Path, streams: int, seconds: float, new_tokens: int) -> float:
    """Generated tokens per second of the pipeline without a server, with `streams` answers at once."""
    import numpy as np
    import openvino as ov
    import openvino_genai

    from ovround.runtime import Tokenizer
    from ovround.runtime.engines.openvino_devices import EXACT

    tokenizer = Tokenizer(folder)
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.max_num_seqs, scheduler.cache_size, scheduler.enable_prefix_caching = streams, 0, True
    pipeline = openvino_genai.ContinuousBatchingPipeline(
        folder, scheduler, "CPU", {**EXACT, "INFERENCE_NUM_THREADS": 1}
    )
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens, config.ignore_eos = new_tokens, True
    inputs = [ov.Tensor(np.array([tokenizer.encode(prompt)], np.int64)) for prompt in prompts(streams)]
    handles: list[Any] = [None] * streams
    tokens = number = 0
    started = time.monotonic()
    while time.monotonic() < started + seconds or any(handles):
        for index, handle in enumerate(handles):
            if handle is None and time.monotonic() < started + seconds:
                number += 1
                handles[index] = pipeline.add_request(number, inputs[index], config)
        pipeline.step()
        for index, handle in enumerate(handles):
            while handle is not None and handle.can_read():
                tokens += sum(len(output.generated_ids) for output in handle.read().values())
            if handle is not None and handle.get_status().name != "RUNNING":
                handles[index] = None
    return tokens / (time.monotonic() - started)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--least", type=float, default=0.95)
    parser.add_argument("--direct", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    settings = (options.streams, options.seconds, options.new_tokens)
    if options.direct:
        print(directly(options.folder, *settings))
        return 0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "ovround", "serve", str(options.folder), "--port", str(port), "--exact"]
    command += ["--threads", "1", "--max-running", str(options.streams)]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                ask(port, "x", 1)
                break
            except OSError:
                time.sleep(0.2)
        served = through_server(port, *settings)
    finally:
        server.terminate()
        server.wait(30)
    again = [sys.executable, __file__, str(options.folder), "--direct", "--streams", str(options.streams)]
    again += ["--seconds", str(options.seconds), "--new-tokens", str(options.new_tokens)]
    direct = float(subprocess.run(again, capture_output=True, text=True, check=True).stdout)
    result = {**served, "streams": options.streams, "seconds": options.seconds, "direct_tokens_per_s": direct}
    result["ratio"] = served["tokens_per_s"] / direct
    print(json.dumps(result))
    return int(served["wrong"] > 0 or served["lost"] > 0 or result["ratio"] < options.least)


if __name__ == "__main__":
    sys.exit(main())
