"""OpenAI's Responses API, translated into chats and back.

request.py   the fields of a request and the items of its input
chat.py      a request as a chat request
output.py    the items of an answer, and the events of their growth
response.py  the object of a response and the stream of its events
store.py     the responses that can be asked for again, in bounded memory
serving.py   the routes
"""

from __future__ import annotations
