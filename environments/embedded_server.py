"""`python -m environments.embedded_server MODEL`: the embedded server."""

from environments.inference.embedded.server import app

if __name__ == "__main__":
    app()
