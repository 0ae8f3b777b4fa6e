"""Path of one stream: chunker, session and engine, and what is made of the messages."""
