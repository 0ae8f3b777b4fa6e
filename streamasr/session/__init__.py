"""Policy of one stream: orders and messages that follow from speech and answers; pure."""
