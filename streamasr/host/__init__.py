"""Sessions that outlive connections; independent of any wire format."""
