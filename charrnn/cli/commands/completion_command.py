"""`charrnn completion`: scripts for shell completion."""

from __future__ import annotations

import click

from ..options import Command


@click.command("completion", cls=Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, /, shell: str) -> None:
    """Print the script for shell completion.

    With it, the Tab key completes commands, options, choices and file names. Evaluate the script to
    complete in the current shell; add it to the start-up file of the shell to complete always.

    \b
    Example:
      eval "$(charrnn completion bash)"
      echo 'eval "$(charrnn completion bash)"' >> ~/.bashrc
      echo 'eval "$(charrnn completion zsh)"' >> ~/.zshrc
      charrnn completion fish > ~/.config/fish/completions/charrnn.fish
    """
    from click.shell_completion import get_completion_class

    completion_class = get_completion_class(shell)
    assert completion_class is not None, shell  # click has one for each choice
    script = completion_class(ctx.find_root().command, {}, "charrnn", "_CHARRNN_COMPLETE")
    click.echo(script.source(), nl=False)
