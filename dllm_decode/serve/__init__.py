"""The server: OpenAI's API over one model, whose requests join and leave the running batch (extra ``serve``)."""
