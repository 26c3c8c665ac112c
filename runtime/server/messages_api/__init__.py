"""Anthropic's Messages API, translated into chats and back.

request.py   the fields of a request and the blocks of its messages
chat.py      a request as a chat request
message.py   the message of an answer, and the events of a stream
serving.py   the routes
"""

from __future__ import annotations
