"""The Serve application: the only room that imports ray or fastapi."""
