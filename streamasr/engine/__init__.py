"""Models at work: child processes, the decoder's thread, and the stages that share them fairly."""
