"""There is no route that the document does not tell of."""

from fastapi.routing import iter_route_contexts

NOT_DESCRIBED = {("GET", "/openapi.json"), ("HEAD", "/openapi.json")}  # the document itself


def test_the_document_tells_of_every_route_and_of_no_other(app):
    routes = {(method, route.path) for route in iter_route_contexts(app.routes) for method in route.methods or ()}

    described = {(method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods}
    assert routes == described | NOT_DESCRIBED


def test_every_route_is_one_that_takes_requests(app):
    assert all(route.methods for route in iter_route_contexts(app.routes))  # no mounted application, no WebSocket
