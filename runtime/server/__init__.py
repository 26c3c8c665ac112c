"""The model over HTTP as OpenAI's and Anthropic's APIs have it: `ovround serve`, or `create_app` inside another server.

    api_server.py     the application: middleware, routes, error handlers
    api_router.py     the routes; serving_chat.py and serving_completion.py answer OpenAI's completions
    responses_api/    OpenAI's Responses, and messages_api/ Anthropic's Messages: both translated into chats by translated_chat.py
    protocol.py       the fields of a request, each with its range; responses.py builds the objects of an answer
    field_support.py  the fields that only one engine serves; engine_choice.py chooses the engine when the server starts
    answer_stream.py  a request's answers, collected or as events; answer_format.py gives them their protocol's form,
                      choice_format.py that of one choice; answer_reader.py tells text, reasoning and calls apart
    failure.py        an error in each protocol's form and words
    engine_client.py  the server's view of its one engine: jobs (job.py), limits on waiting and time
    engine_supervisor.py  starts and watches the engine's process; engine_process.py is one such process
    engine_messages.py    the messages through the pipe
    engine_core.py    that process: batching_worker.py computes many answers at once, single_worker.py one; engine_pipe.py
                      is its end of the pipe
    middleware.py     body size and API key, checked before parsing; timed_protocol.py limits the time for headers
    launcher.py       starts an engine, a socket, and uvicorn

The event loop runs nothing of a model, except that it turns tokens into text.
"""

from __future__ import annotations
