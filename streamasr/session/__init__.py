"""What is to be done with speech, and when; pure."""
