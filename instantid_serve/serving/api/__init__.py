"""The HTTP API of the Serve application."""
