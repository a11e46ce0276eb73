"""The deployments' classes, plain: :func:`instantid_serve.serving.app.build` makes Serve deployments of them.

One module each, so that a replica imports only what it runs (torch alone is 400 MB). Each loads its own settings from
the config's args and its own environment, so that no secret travels in Serve's state.
"""
