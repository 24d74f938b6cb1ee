"""One client for OpenAI-compatible endpoints: whole and streamed replies."""
