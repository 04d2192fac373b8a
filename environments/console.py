"""The console commands: nothing is imported before Ctrl-C is caught, and the imports take seconds."""


def needle() -> None:
    _run("environments.needle_env")


def linked() -> None:
    _run("environments.linked_needle_env")


def _run(module: str) -> None:
    import sys

    try:
        from importlib import import_module

        import_module(module).main()
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
