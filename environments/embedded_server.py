"""`python -m environments.embedded_server MODEL`: the embedded server."""

from environments.inference.embedded.command import app

if __name__ == "__main__":
    app()
