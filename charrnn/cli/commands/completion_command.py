"""`charrnn completion`: the script with which a shell completes charrnn's commands."""

from __future__ import annotations

import click


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the script for shell completion.

    With it, the tab key completes the names of commands, options, choices and files. For this
    shell only: evaluate what is printed. For good: let the shell do so when it starts.

    \b
    Example:
      eval "$(charrnn completion bash)"
      echo 'eval "$(charrnn completion bash)"' >> ~/.bashrc
      echo 'eval "$(charrnn completion zsh)"' >> ~/.zshrc
      charrnn completion fish > ~/.config/fish/completions/charrnn.fish
    """
    from click.shell_completion import get_completion_class

    main = ctx.find_root().command
    script = get_completion_class(shell)(main, {}, "charrnn", "_CHARRNN_COMPLETE")
    click.echo(script.source(), nl=False)
