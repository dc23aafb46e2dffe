"""The README and the pages of docs/ do what they say, typed as they stand."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_on_the_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.S)):
        exec(compile(block, f"{page.name}[{i}]", "exec"), {"__name__": "page"})


def test_every_command_and_option_of_the_readme_exists():
    from typer.testing import CliRunner

    from netgraph.cli.main import app

    text = (ROOT / "README.md").read_text()
    for command, rest in re.findall(
        r"^netgraph ([a-z]+)(?= )(.*--.*|.* #.*|.*:.*)$", "\n".join(re.findall(r"```sh\n(.*?)```", text, re.S)), re.M
    ):
        shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
        assert shown.exit_code == 0
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in shown.output


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_table_of_solver_options_is_made_from_their_declarations():
    from netgraph.fas.options.text import format_option_table

    assert format_option_table() in (ROOT / "docs" / "fas.md").read_text()
