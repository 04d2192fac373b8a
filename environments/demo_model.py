"""`python -m environments.demo_model`: fetches the demo's model."""

from environments.inference.embedded.demo_model import main

if __name__ == "__main__":
    main()
