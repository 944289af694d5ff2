"""The manual page, completion in real shells, suggestions in errors."""

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time

import click
import pytest

from charrnn.cli import main
from charrnn.cli.commands.manual_command import _code, _names, _text


def tool(name, *arguments, **options):
    """Run a program, or skip the test if it is not installed. Returns stdout and stderr."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    done = subprocess.run([name, *arguments], capture_output=True, text=True, timeout=60, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.fixture
def page(invoke):
    result = invoke("manual")
    assert result.exit_code == 0 and result.stderr == ""
    return result.stdout


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- The manual page


def test_the_page_is_valid_roff(page):
    assert page.isascii() and "\x08" not in page
    assert tool("groff", "-ww", "-man", "-Tascii", "-z", input=page) == ("", "")


def test_mandoc_reports_no_warning(page):
    if shutil.which("mandoc") is None:
        pytest.skip("mandoc is not installed")
    lint = ["mandoc", "-T", "lint", "-W", "warning"]
    found = subprocess.run(lint, input=page, capture_output=True, text=True).stdout.splitlines()
    assert [line for line in found if "missing date" not in line] == []


def read(page):
    """The page as formatted text, one line per paragraph."""
    text, _ = tool("groff", "-man", "-Tascii", "-P-c", "-P-b", "-P-u", "-rLL=300n", input=page)
    return text


def test_the_page_has_every_command_option_default_and_example(page):
    text = read(page)
    words = " ".join(text.split())
    for name, command in main.commands.items():
        assert f"\n   charrnn {name}" in text
        context = click.Context(command, info_name=name, **main.context_settings)
        for line in (command.help or "").split("\n"):
            if line.strip().startswith("charrnn "):
                assert f" {line.strip()}\n" in text
        for param in command.params:
            if isinstance(param, click.Option):
                names, meaning = param.get_help_record(context)
                assert f"       {names}" in text
                assert " ".join(meaning.replace("`", "").split()) in words


def test_the_page_has_the_headings_of_the_help(page):
    text = read(page).partition("charrnn train [OPTIONS]")[2]
    headings = [
        "Model", "Text", "How long", "Optimization", "Regularization", "Validation", "Output",
    ]  # fmt: skip
    places = [text.index(f"\n       {heading}\n") for heading in headings]
    assert places == sorted(places)


def test_the_page_has_environment_files_and_exit_status(page):
    text = read(page)
    for heading in ("NAME", "SYNOPSIS", "ENVIRONMENT", "FILES", "EXIT STATUS"):
        assert f"\n{heading}\n" in text
    for word in ("CHARRNN_DEBUG", "NO_COLOR", "model.state.safetensors", "130, 143, 129"):
        assert word in text
    for code in ("CHARRNN_DEBUG", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "NO_COLOR", "FORCE_COLOR"):
        assert code in page


def test_examples_on_the_page_can_be_pasted(page):
    """No character became a typographic one."""
    text, _ = tool("groff", "-man", "-Tutf8", "-P-c", "-P-b", "-P-u", "-rLL=300n", input=page)
    assert "sort -u" in text and "--stop $'\\n'" in text
    assert not set("‐−’‘ˆ˜") & set(text.partition("COMMANDS")[2].replace("text’s", ""))


def test_roff_is_escaped():
    assert _text(".x") == r"\&.x" and _text("'x") == r"\&'x"
    assert _text("a \\n b") == r"a \en b" and _text("é") == r"\[u00E9]"
    assert _text("`a-b` and --c-d, e-f") == r"\fBa\-b\fR and \fB\-\-c\-d\fR, e-f"
    assert _code("-'`^~\\") == r"\-\(aq\(ga\(ha\(ti\e"
    assert _names("-o, --output FILE") == r"\fB\-o, \-\-output\fR \fIFILE\fR"
    assert _names("--resume") == r"\fB\-\-resume\fR"


# --- Completion


@pytest.fixture
def path(folder, monkeypatch):
    """`charrnn` as a command on the PATH; a text and a model in the folder."""
    (folder / "bin").mkdir()
    script = folder / "bin" / "charrnn"
    script.write_text(f"#!{sys.executable}\nfrom charrnn.cli import main\nmain()\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    for name in ("corpus.txt", "model.safetensors"):
        (folder / name).touch()


COMPLETIONS = {  # typed text: completions
    "charrnn tr": {"train"},
    "charrnn train --cell g": {"gru", "gru-original"},
    "charrnn train --optim": {"--optimizer"},
    "charrnn sample --pro": {"--prompt"},
    "charrnn score --sort s": {"surprisal"},
    "charrnn plot -x s": {"seconds", "steps"},
    "charrnn completion z": {"zsh"},
    "charrnn train cor": {"corpus.txt"},
    "charrnn train corpus.txt -o mod": {"model.safetensors"},
    "charrnn inspect cor": {"corpus.txt"},
    "charrnn inspect --html cor": {"corpus.txt"},
    "charrnn write cor": {"corpus.txt"},
}
NO_FILES = {
    "allow", "encoding", "corpus_encoding", "forbid", "mix", "prime", "separator", "stop", "unit"
}  # fmt: skip


@pytest.mark.parametrize("command", main.commands)
def test_every_parameter_that_takes_a_file_completes_files(command):
    """Every free text is a file name, unless NO_FILES names it."""
    context = click.Context(main.commands[command], info_name=command)
    for param in main.commands[command].params:
        completes = [item.type for item in param.shell_complete(context, "x")] == ["file"]
        free_text = param.type is click.STRING and param.name not in NO_FILES
        assert not free_text, f"{param.name} needs type=FILE or a place in NO_FILES"
        assert completes == isinstance(param.type, click.Path), param.name


def test_files_in_the_environment_are_separated_like_a_path():
    option = next(p for p in main.commands["score"].params if p.name == "models")
    assert option.type.split_envvar_value(f"a b{os.pathsep}c") == ["a b", "c"]


@pytest.mark.parametrize("name", [".", "missing", "no/such/folder", "-"])
def test_file_names_are_checked_only_when_opened(name):
    option = next(p for p in main.commands["sample"].params if p.name == "output")
    assert option.type.convert(name, option, None) == name


BASH = r"""
eval "$(charrnn completion bash)"
[[ $(complete -p charrnn) =~ -F\ ([^ ]+) ]]
complete_it=${BASH_REMATCH[1]}
compopt() { [ "$2" = default ] && COMPREPLY=($(compgen -f -- "${COMP_WORDS[COMP_CWORD]}")); }
while IFS= read -r line; do
    COMP_WORDS=($line); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
    $complete_it charrnn
    echo "${COMPREPLY[*]}"
done
"""


def test_bash_completes(path):
    out, err = tool(
        "bash", "--norc", "-c", BASH, input="".join(f"{line}\n" for line in COMPLETIONS)
    )
    assert [set(line.split()) for line in out.splitlines()] == list(COMPLETIONS.values()), err


def test_fish_completes(path, folder):
    lines = "; ".join(f"complete -C '{line}'; echo ---" for line in COMPLETIONS)
    environment = {**os.environ, "HOME": str(folder)}
    code = f"charrnn completion fish | source; {lines}"
    out, _ = tool("fish", "--no-config", "-c", code, env=environment)
    found = [{row.split("\t")[0] for row in part.split("\n") if row} for part in out.split("---\n")]
    assert found[:-1] == list(COMPLETIONS.values())


def test_zsh_completes(path, folder):
    """zsh completes only in an interactive shell, and so the test types into one."""
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed")
    setup = (
        """autoload -U compinit; compinit -u -D; eval "$(charrnn completion zsh)"; PS1=rea\\dy"""
    )
    typed = [f"{setup}\r", "charrnn trai\t", "corp\t", "--optim\t", "ada\t"]
    awaited = ["ready", "train", "corpus.txt", "--optimizer", "adam"]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe("zsh", ["zsh", "-f", "-i"], {**os.environ, "TERM": "dumb", "PS1": "% "})
    try:
        for keys, word in zip(typed, awaited, strict=True):
            os.write(terminal, keys.encode())
            wait_for(terminal, word)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


def wait_for(terminal, text, seconds=20):
    shown, end = "", time.monotonic() + seconds
    while text not in shown:
        ready, _, _ = select.select([terminal], [], [], max(end - time.monotonic(), 0))
        assert ready, f"{text!r} did not come: {shown!r}"
        shown += os.read(terminal, 4096).decode(errors="replace")


def test_completion_scripts_are_for_the_command_charrnn(invoke):
    for shell in ("bash", "zsh", "fish"):
        out = invoke("completion", shell).stdout
        assert "_CHARRNN_COMPLETE" in out and "python" not in out
    assert invoke("completion", "powershell").exit_code == 2


# --- Suggestions


def suggestion_of(result, code):
    assert result.exit_code == code and "Traceback" not in result.stderr
    message = result.stderr.partition("Error: ")[2]
    assert message.count("\n") == 1
    return message


@pytest.mark.parametrize(
    "arguments, hint",
    [
        ("train x --cell lsmt", "Did you mean 'lstm'?"),
        ("train x --cell LSTM", "Did you mean 'lstm'?"),
        ("train x --optimizer Adm", "Did you mean 'adam'?"),
        ("completion fihs", "Did you mean 'fish'?"),
        ("train x --learnin-rate 1", "Did you mean '--learning-rate'?"),
        (
            "train x --temperature 1",
            "It is an option of 'charrnn sample', 'charrnn fill', 'charrnn write'.",
        ),
        ("--top-k x sample", "It is an option of 'charrnn sample'."),
        ("trian x", "Did you mean 'train'?"),
        ("sample --temp 1", "Did you mean '--temperature'?"),
        ("train x --rd 1", "Did you mean '--recurrent-dropout'?"),
        ("train x --lr-d 1", "Did you mean '--lr-decay' or '--lr-decay-after'?"),
    ],
)
def test_a_typing_error_gets_a_suggestion(invoke, arguments, hint):
    if "trian" in arguments and not hasattr(click.exceptions, "NoSuchCommand"):
        pytest.skip("this Click does not suggest commands")
    suggestion = suggestion_of(invoke(*arguments.split()), 2)
    # click 8.2 does not quote an option.
    assert suggestion.replace("--learning-rate?", "'--learning-rate'?").endswith(f" {hint}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        *("train x --cell transformer", "--quite x", "frobnicate", "train x --attention"),
        *("train x --temp 1", "sample --dropot 1", "train x -Z"),
    ],
)
def test_an_unlike_name_gets_no_suggestion(invoke, arguments):
    assert "Did you mean" not in suggestion_of(invoke(*arguments.split()), 2)


@pytest.mark.parametrize(
    "arguments, meant",
    [
        ("sample -m modle.safetensors", "model.safetensors"),
        ("info Model.safetensor", "model.safetensors"),
        ("plot modle.safetensors", "model.safetensors"),
        ("plot modle.log.jsonl", "model.log.jsonl"),
        ("train texts/peoms.txt", "texts/poems.txt"),
        ("novelty texts/peoms.txt --corpus texts/poems.txt", "texts/poems.txt"),
        ("sample -m model.safetensors --prime-file texts/poem.txt", "texts/poems.txt"),
    ],
)
def test_a_missing_file_gets_a_suggestion(invoke, folder, model_file, arguments, meant):
    (folder / "texts").mkdir()
    (folder / "texts" / "poems.txt").write_text("a rose is a rose\n" * 20)
    (folder / "model.safetensors").write_bytes(model_file.read_bytes())
    (folder / "model.log.jsonl").touch()
    if arguments.startswith("train"):
        arguments += " -o new.safetensors"
    assert suggestion_of(invoke(*arguments.split()), 1).endswith(f" Did you mean '{meant}'?\n")


def test_a_file_with_only_the_same_suffix_is_not_suggested(invoke, folder):
    for name in ("one.log.jsonl", ".model.log.jsonl", "x.safetensors"):
        (folder / name).touch()
    for arguments in (["plot"], ["sample"], ["info", "no/such/folder"]):
        assert "Did you mean" not in suggestion_of(invoke(*arguments), 1)


def test_suggestions_are_escaped(invoke, folder):
    (folder / "poems\x1b.txt").touch()
    assert r"'poems\x1b.txt'" in suggestion_of(invoke("train", "poems.txt"), 1)


def test_commands_are_listed_by_use(invoke):
    names = re.findall(r"\n  (\w+)  ", invoke("--help").stdout.partition("Commands:")[2])
    assert names[0] == "train" and names[1] == "sample" and set(names) == set(main.commands)


@pytest.mark.parametrize("width", [60, 80])
def test_the_list_of_commands_is_not_cut_short(spawn, width):
    out, _ = spawn("--help", env={"COLUMNS": str(width)}).communicate()
    listed = out.decode().partition("Commands:")[2]
    assert "..." not in listed and max(map(len, listed.splitlines())) <= width
