"""`python -m charrnn` is `charrnn`."""

from .cli import main

main()
