"""Turns, commands, a full context, Ctrl-C and failures, with made-up partners."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from rethink.chat.chat_session import Session, changed
from rethink.chat.conversation import Messages
from rethink.chat.partner import Ended, OnText, Settings, Stopped
from rethink.errors import EngineFailure, UsageError
from tests.chat.partners import Partner, Record


def echo(messages: Messages, stopped: Stopped, on_text: OnText) -> str:
    return f"<think>hm, {len(messages)}</think>\nyou said {messages[-1]['content']}"


def session_with(partner: Partner, **options: Any) -> tuple[Session, Record]:
    screen = Record()
    return Session(partner, screen, options.pop("settings", Settings()), options.pop("system", None)), screen


def test_earlier_answers_are_sent_without_their_thoughts() -> None:
    partner = Partner(echo)
    session, screen = session_with(partner, system="Be brief.")
    assert session.take("one") is True
    assert "".join(text for part, text in screen.pieces if part == "thought") == "hm, 2"
    assert session.take("  two ") is True
    assert [(m["role"], m["content"]) for m in partner.asked[1][0]] == [
        ("system", "Be brief."),
        ("user", "one"),
        ("assistant", "you said one"),
        ("user", "two"),
    ]
    assert session.conversation.turns[0].thought == "hm, 2"
    assert [seed for *_, seed in partner.asked] == [0, 1]


def test_empty_lines_say_nothing_and_two_slashes_are_one() -> None:
    partner = Partner(echo)
    session, _ = session_with(partner)
    session.take("   ")
    session.take("//home")
    session.take("odd \ud800")
    assert [asked[0][-1]["content"] for asked in partner.asked] == ["/home", "odd ?"]


def test_retry_undo_reset_and_system() -> None:
    partner = Partner(echo)
    session, screen = session_with(partner)
    for line in ("one", "/retry"):
        session.take(line)
    assert len(session.conversation.turns) == 1
    assert [seed for *_, seed in partner.asked] == [0, 1]
    assert partner.asked[1][0] == partner.asked[0][0]
    session.take("/set temperature=0")
    session.take("/retry")
    assert any("the same" in note for note in screen.notes)
    session.take("/system Speak French.")
    session.take("two")
    assert partner.asked[-1][0][0] == {"role": "system", "content": "Speak French."}
    session.take("/undo")
    assert [turn.user for turn in session.conversation.turns] == ["one"]
    session.take("/reset")
    assert session.conversation.turns == []
    session.take("/system -")
    assert session.conversation.system is None
    for line in ("/undo", "/retry"):
        with pytest.raises(UsageError, match="nothing has been asked"):
            session.take(line)
    assert session.take("/exit") is False


def test_unknown_commands_and_settings_are_named() -> None:
    session, screen = session_with(Partner(echo))
    with pytest.raises(UsageError, match="did you mean /retry"):
        session.take("/retr")
    session.take("/set temperature=1.5 top_k=7")
    assert (session.settings.temperature, session.settings.top_k) == (1.5, 7)
    assert "temperature=1.5" in screen.notes[-1]
    for bad in ("temperature=-1", "top_p=0", "top_p=1.5", "top_k=1.5", "seed=x", "max_new_tokens=0", "temperature=nan"):
        with pytest.raises(UsageError, match="give a"):
            changed(Settings(), bad)
    with pytest.raises(UsageError, match="not name=value"):
        changed(Settings(), "warmth=1")
    session.take("/help")
    assert "/save FILE" in screen.notes[-1]


def test_unfolding_shows_the_last_thought() -> None:
    session, screen = session_with(Partner(echo))
    session.take("one")
    session.take("/think")
    assert (screen.folded, screen.thoughts) == (True, [])
    session.take("/think")
    assert (screen.folded, screen.thoughts) == (False, ["hm, 1"])


def test_a_full_context_leaves_out_the_oldest_turns() -> None:
    partner = Partner(lambda *_: "a b c", context=30)
    session, screen = session_with(partner, system="s", settings=Settings(max_new_tokens=8))
    for number in range(6):
        session.take(f"message {number} " + "x " * 5)
    sent = partner.asked[-1][0]
    assert sent[0]["role"] == "system"
    assert partner.count(sent) <= 30 - 7  # room for a quarter of the context
    assert sent[-1]["content"].startswith("message 5")
    assert sent[1]["content"].startswith("message 4")
    assert any("full" in note and "not sent any more" in note for note in screen.notes)
    assert len(session.conversation.turns) == 6
    with pytest.raises(UsageError, match="alone is too long"):
        session.take("x " * 40)
    assert len(session.conversation.turns) == 6


def test_an_endpoint_that_finds_it_too_long_gets_less() -> None:
    partner = Partner(lambda *_: "a b c", context=20)
    partner.count = lambda messages: 0  # type: ignore[method-assign]
    real = Partner.count
    partner.reply = lambda messages, *_: "a b c"

    def answer(messages: Messages, *rest: Any) -> Ended:
        partner.asked.append(([dict(m) for m in messages], rest[0], rest[1]))
        if real(partner, messages) >= 20:
            from rethink.chat.partner import TooLong

            raise TooLong("too long")
        return Ended("stop", 3)

    partner.answer = answer  # type: ignore[method-assign]
    session, screen = session_with(partner)
    for _ in range(4):
        session.take("x " * 8)
    assert real(partner, partner.asked[-1][0]) < 20
    assert screen.notes


def test_ctrl_c_stops_the_answer_and_keeps_what_came() -> None:
    def long(messages: Messages, stopped: Stopped, on_text: OnText) -> Ended:
        for number in range(10_000):
            on_text(f"{number} ")
            if number == 3:
                os.kill(os.getpid(), signal.SIGINT)
            if stopped():
                return Ended("stopped", number)
        raise AssertionError("never stopped")

    before = signal.getsignal(signal.SIGINT)
    session, screen = session_with(Partner(long))
    session.take("count")
    assert signal.getsignal(signal.SIGINT) is before
    turn = session.conversation.turns[0]
    assert (turn.answer, turn.ended) == ("0 1 2 3", "stopped")
    assert screen.ended[-1].how == "stopped"
    session.take("/undo")
    assert session.take("/exit") is False


def test_ctrl_c_twice_leaves() -> None:
    def deaf(*_: Any) -> str:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("went on")

    session, screen = session_with(Partner(deaf))
    with pytest.raises(KeyboardInterrupt):
        session.take("hello")
    assert (screen.breaks, session.conversation.turns) == (1, [])


def test_after_a_failure_retry_asks_again() -> None:
    answers = iter([EngineFailure("gone"), "back"])

    def reply(*_: Any) -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    session, _ = session_with(Partner(reply))
    with pytest.raises(EngineFailure):
        session.take("hello")
    assert session.conversation.turns == []
    session.take("/retry")
    assert [(t.user, t.answer) for t in session.conversation.turns] == [("hello", "back")]


def test_a_conversation_is_saved_and_never_over_another_file(tmp_path: Path) -> None:
    session, _ = session_with(Partner(echo), system="s")
    session.take("one")
    session.take(f"/save {tmp_path / 'a.json'}")
    saved = json.loads((tmp_path / "a.json").read_text("utf-8"))
    assert [m["role"] for m in saved["messages"]] == ["system", "user", "assistant"]
    assert saved["messages"][2]["content"] == "<think>hm, 2</think>\nyou said one"
    assert saved["model"] == "partner"
    session.take(f"/save {tmp_path / 'a.md'}")
    assert "> hm, 2" in (tmp_path / "a.md").read_text("utf-8")
    with pytest.raises(UsageError, match="exists already"):
        session.take(f"/save {tmp_path / 'a.json'}")
    with pytest.raises(UsageError, match="no folder"):
        session.take(f"/save {tmp_path / 'no' / 'a.json'}")
    with pytest.raises(UsageError, match="needs a file"):
        session.take("/save")
