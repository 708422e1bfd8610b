"""`python -m monitor` is `pellucid`."""

from monitor.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
