"""The model over HTTP as OpenAI's API has it: `ovround serve`, or `create_app` inside another server.

    schema.py      what a request may say: every field with its range
    job.py         one answer on its way: from the event loop to the engine's thread and back
    backend.py     who computes: one thread that owns an engine; llm_backend.py one at a time, batching.py many
    dispatch.py    who computes which request, the queue's limits, time limits
    responses.py   OpenAI's objects; stream.py the same as events
    app.py         the routes
    limits.py      body size and API key, before anything is parsed

Nothing of a model runs on the event loop but turning tokens into text.
"""

from __future__ import annotations
