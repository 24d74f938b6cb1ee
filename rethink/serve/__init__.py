"""An OpenAI-compatible server on the continuous-batching engine.

HTTP (asyncio, `app.py`) ─► prompt ids (`request_reading.py`) ─► tickets ─► one engine thread (`engine_thread.py`) ─►
mailboxes ─► text, thoughts, log-probabilities (`streamed_text.py`, `responses.py`) ─► JSON or server-sent events
"""
