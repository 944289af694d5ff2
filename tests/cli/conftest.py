"""Fixtures for the tests of the command line."""

import pytest
from helpers.commands import train_model
from helpers.html_pages import EVIL


@pytest.fixture(autouse=True)
def working_folder(tmp_path_factory, monkeypatch):
    """Run every test in an empty folder, without environment variables about color."""
    for name in "NO_COLOR", "FORCE_COLOR":
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path_factory.mktemp("work")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def evil_model_file(tmp_path_factory):
    """A model of characters that terminals and browsers interpret."""
    return train_model(tmp_path_factory.mktemp("evil"), "evil.safetensors", EVIL * 20)


@pytest.fixture(scope="session")
def other_model_file(tmp_path_factory, text):
    """A model with the characters of `text`, trained on the reversed text."""
    return train_model(tmp_path_factory.mktemp("other"), "other.safetensors", text[::-1])
