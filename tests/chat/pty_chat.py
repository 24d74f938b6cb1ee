"""A conversation for `test_terminal.py`, run in a terminal of its own with a partner that thinks, waits and attacks."""

from __future__ import annotations

import time

from rethink.chat.chat_session import Session
from rethink.chat.conversation import Messages
from rethink.chat.lines import talk
from rethink.chat.partner import Ended, OnText, Settings, Stopped
from rethink.chat.screen import TerminalScreen
from tests.chat.partners import Partner


def reply(messages: Messages, stopped: Stopped, on_text: OnText) -> Ended | str:
    asked = messages[-1]["content"]
    if asked == "attack":
        return "\x1b]0;OWNED\x07<think>\x1b[31m</think>safe"
    if asked == "forever":
        number = 0
        while not stopped():
            on_text(f"tick{number} ")
            number += 1
            time.sleep(0.05)
        return Ended("stopped", number)
    return f"<think>secret pondering</think>\nanswer to {asked}"


if __name__ == "__main__":
    talk(Session(Partner(reply), TerminalScreen(), Settings()), "ready to talk")
    print("left")
