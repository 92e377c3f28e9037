"""The command's help: every command on a whole line, in its section, and every option explained."""

import re

import click
import pytest
from click.testing import CliRunner

from study.cli.app import SECTIONS, study
from trainables.methods.registry import METHODS


def commands() -> dict[str, click.Command]:
    """Every command and subcommand, by the words that call it."""
    context = click.Context(study)
    found = {name: command for name in study.list_commands(context) if (command := study.get_command(context, name))}
    groups = {name: group.commands for name, group in found.items() if isinstance(group, click.Group)}
    return found | {f"{name} {one}": command for name, group in groups.items() for one, command in group.items()}


def test_the_help_lists_every_command_on_one_whole_line() -> None:
    done = CliRunner().invoke(study, ["--help"], terminal_width=80)
    assert done.exit_code == 0
    listed = done.output[done.output.index("Set up:") :]
    assert re.findall(r"^([\w ]+):$", listed, re.M) == ["Set up", "Run", "Look", "Share", "Cluster"]
    lines = [line.split(maxsplit=1) for line in listed.splitlines() if line.startswith("  ")]
    assert [name for name, _ in lines] == [name for names in SECTIONS.values() for name in names], "none is wrapped"
    assert all(text.endswith(".") and not text.endswith("...") for _, text in lines), listed
    assert all(len(line) <= 80 for line in listed.splitlines())


@pytest.mark.parametrize("name", commands())
def test_every_option_is_explained(name: str) -> None:
    command = commands()[name]
    assert command.help
    for parameter in command.params:
        assert not isinstance(parameter, click.Option) or parameter.help, f"{name}: {parameter.name}"
    shown = CliRunner().invoke(study, [*name.split(), "--help"], terminal_width=80).output
    assert not re.search(r"[a-z]\.\.\.$", shown, re.M), shown


def test_an_unknown_command_is_refused() -> None:
    done = CliRunner().invoke(study, ["rnu"])
    assert done.exit_code == 2
    assert "No such command 'rnu'" in done.output


def test_every_method_is_listed_with_its_hyperparameters() -> None:
    done = CliRunner().invoke(study, ["methods"])
    assert done.exit_code == 0, done.output
    for name, method in METHODS.items():
        assert f"\n{name} " in done.output
        assert getattr(method, "summary", "").endswith("."), name
        for key, known in method.hyperparameters.items():
            assert f"{key} = {known}" in done.output
    assert "layer = 1, in [0, 8], whole, or auto" in done.output
    assert "alpha = 0.3, in (0, 10]" in done.output


def test_methods_are_chosen_by_a_part_of_their_names() -> None:
    done = CliRunner().invoke(study, ["methods", "stitchup"])
    assert "\ne_stitchup " in done.output
    assert "\nsoft_e_stitchup " in done.output
    assert "e_mixup " not in done.output.split("\n", 1)[0]
    refused = CliRunner().invoke(study, ["methods", "stichup"])
    assert (refused.exit_code, "part of a method's name, got 'stichup'" in refused.output) == (2, True)
