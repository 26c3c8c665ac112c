"""The model over HTTP as OpenAI's API has it: `ovround serve`, or `create_app` inside another server.

    schema.py      what a request may say: every field with its range
    job.py         one answer on its way
    dispatch.py    who computes which request, the queue's limits, time limits
    engine_process.py  an engine in a process of its own, watched and started again; engine_child.py is one such process
    wire.py        what goes through the pipe
    engine_program.py  that process: batching.py computes many answers at once, one_by_one.py one; engine_link.py is its end
    responses.py   OpenAI's objects; stream.py the same as events
    app.py         the routes
    limits.py      body size and API key, before anything is parsed

Nothing of a model runs on the event loop but turning tokens into text.
"""

from __future__ import annotations
