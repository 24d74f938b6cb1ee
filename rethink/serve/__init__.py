"""An OpenAI-compatible server on the continuous-batching engine.

HTTP (asyncio, `app.py`) ─► prompt ids (`prompts.py`) ─► tickets ─► one engine thread (`worker.py`) ─► mailboxes ─►
text, thoughts, log-probabilities (`text.py`, `answers.py`) ─► JSON or server-sent events
"""
