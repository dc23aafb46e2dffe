"""The supply chain: pins and their hashes, vendored files, actions of the workflow, and the scripts of a release.

`.ci/release` itself needs the package index. What it rests on is held here without a network.
"""

import fnmatch
import hashlib
import importlib.metadata as metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]
LOCKED = ROOT / ".ci" / "locked"
VENDOR = ROOT / "viz" / "page" / "vendor"


def read_pins(path):
    """Return for each package its requirement and its hashes."""
    text = re.sub(r"\\\n", " ", path.read_text(encoding="utf8"))
    pins = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            requirement, *hashes = re.split(r"\s+--hash=", line)
            pins[canonicalize_name(Requirement(requirement).name)] = Requirement(requirement), hashes
    return pins


def version_of(requirement):
    (specifier,) = requirement.specifier
    assert specifier.operator == "=="
    return specifier.version


def list_requirements(*extras):
    """Return what pyproject.toml asks for, with the extras that an extra names."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    requirements = []
    for requirement in map(Requirement, lines):
        nested = requirement.name == PROJECT["name"]
        requirements += list_requirements(*requirement.extras) if nested else [requirement]
    return requirements


CONSTRAINTS = read_pins(ROOT / "constraints.txt")
PINS = {name: read_pins(LOCKED / f"{name}.txt") for name in ("runtime", "dev", "release")}


@pytest.mark.parametrize(("name", "extra"), [("runtime", "train"), ("dev", "dev")])
def test_every_requirement_of_the_project_is_pinned_with_hashes(name, extra):
    for requirement in list_requirements(extra):
        pin, _ = PINS[name][canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version_of(pin), prereleases=True), requirement


@pytest.mark.parametrize("name", PINS)
def test_every_pin_has_sha256_hashes(name):
    for pin, hashes in PINS[name].values():
        assert hashes, pin
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in hashes), pin


@pytest.mark.parametrize("name", PINS)
def test_pins_with_hashes_have_the_versions_of_the_constraints(name):
    for package, (pin, _) in PINS[name].items():
        if name != "release" or package in CONSTRAINTS:  # tools of a release are no part of an installation
            assert version_of(pin) == version_of(CONSTRAINTS[package][0]), f"{package}: run .ci/lock"


@pytest.mark.parametrize("name", ["runtime", "dev"])
def test_what_a_pinned_package_needs_is_pinned_too(name):
    judged = 0
    for package in PINS[name]:
        try:
            needs = map(Requirement, metadata.requires(package) or ())
        except metadata.PackageNotFoundError:  # of another system
            continue
        needed = {canonicalize_name(n.name) for n in needs if n.marker is None or n.marker.evaluate({"extra": ""})}
        assert needed <= set(PINS[name]), package
        judged += 1
    assert judged > 25


def test_tools_of_a_release_are_pinned():
    lines = (LOCKED / "release.in").read_text(encoding="utf8").splitlines()
    tools = {canonicalize_name(Requirement(line).name) for line in lines if not line.startswith("#")}
    build_system = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["build-system"]["requires"]
    assert tools | {Requirement(line).name for line in build_system} <= set(PINS["release"])


def test_the_scripts_are_bash_that_parses():
    scripts = [
        path for path in sorted((ROOT / ".ci").iterdir()) if path.is_file() and b"bash" in path.read_bytes()[:30]
    ]
    assert {path.name for path in scripts} >= {"lock", "release", "run", "versions"}
    for path in scripts:
        subprocess.run(["bash", "-n", path], check=True)


SOUND = {"name": "numpy", "version": "2.4.6", "vulns": []}
VULNERABLE = {"name": "pillow", "version": "9.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["9.1"]}]}
UNREAD = {"name": "torch", "skip_reason": "Dependency not found on PyPI and could not be audited: torch (2.13.0)"}


@pytest.mark.parametrize(
    ("packages", "code", "words"),
    [
        ([SOUND], 0, "1 packages audited"),
        ([SOUND, VULNERABLE], 1, "pillow 9.0 has PYSEC-1, mended in 9.1"),
        ([SOUND, UNREAD], 75, "no advisories could be read for 1 of 2 packages: torch"),
        ([UNREAD, VULNERABLE], 1, "no advisories could be read for 1 of 2 packages: torch"),
        ([], 75, "0 packages audited"),
        (None, 75, "nothing was audited"),
    ],
)
def test_an_audit_passes_only_if_every_package_was_looked_up(packages, code, words):
    text = "" if packages is None else json.dumps({"dependencies": packages, "fixes": []})
    audit = subprocess.run(
        [sys.executable, ROOT / ".ci" / "audit"], input=text, capture_output=True, text=True, check=False
    )
    assert (audit.returncode, words in audit.stdout) == (code, True), audit


def test_every_vendored_file_is_listed_with_its_digest_and_its_notices():
    (component,) = json.loads((VENDOR / "vendored.cdx.json").read_text(encoding="utf8"))["components"]
    listed = {file["name"]: file["hashes"][0]["content"] for file in component["components"]}
    files = {path.name: path.read_bytes() for path in VENDOR.iterdir() if path.name != "vendored.cdx.json"}
    assert listed == {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    source = files["cytoscape.min.js"].decode()
    notices = re.findall(r"copyright (?:\(c\) )?[\d-]*,? ?(?:[A-Z][\w.]* ?)+", source, re.IGNORECASE)
    texts = [notice["text"] for notice in component["evidence"]["copyright"]]
    assert all(text in source for text in texts)
    assert len(texts) == len(
        [notice for notice in notices if "COPYRIGHT" not in notice and "copyright notice" not in notice]
    )
    assert component["purl"] == f"pkg:npm/cytoscape@{component['version']}"


def test_nothing_is_vendored_elsewhere():
    vendored = {"*.min.js", "*.min.css", "*.woff*", "*.ttf", "*.otf", "*.whl", "*.so", "*.wasm"}
    packages = [ROOT / name for name in ("netgraph", "coarsen", "fas", "models", "viz", "docs", "tests", "benchmarks")]
    files = [path for package in packages for path in package.rglob("*") if path.parent.resolve() != VENDOR.resolve()]
    assert [path for path in files if any(fnmatch.fnmatch(path.name, pattern) for pattern in vendored)] == []
    assert "viz/page/vendor/cytoscape.LICENSE" in PROJECT["license-files"]
    assert PROJECT["license"] == "Apache-2.0 AND MIT"


def test_an_sbom_is_completed_with_vendored_files_and_the_digest_of_the_wheel(tmp_path):
    root = {"name": PROJECT["name"], "bom-ref": "root-component"}
    numpy = {"name": "numpy", "bom-ref": "numpy==2.4.6"}
    dependencies = [{"ref": "root-component", "dependsOn": ["numpy==2.4.6"]}, {"ref": "numpy==2.4.6"}]
    sbom, wheel = tmp_path / "sbom.json", tmp_path / "a.whl"
    sbom.write_text(json.dumps({"metadata": {"component": root}, "components": [numpy], "dependencies": dependencies}))
    wheel.write_bytes(b"wheel")
    subprocess.run([sys.executable, ROOT / ".ci" / "sbom", sbom, wheel], check=True)
    document = json.loads(sbom.read_text())
    assert [component["name"] for component in document["components"]] == ["cytoscape", "numpy"]
    assert document["components"][0]["licenses"] == [{"license": {"id": "MIT"}}]
    assert document["dependencies"][0]["dependsOn"] == ["cytoscape@3.35.0", "numpy==2.4.6"]
    assert document["metadata"]["component"]["hashes"][0]["content"] == hashlib.sha256(b"wheel").hexdigest()


def test_the_source_distribution_names_all_that_lies_beside_the_packages():
    named = set((ROOT / "MANIFEST.in").read_text(encoding="utf8").split())
    packed = {
        "netgraph",
        "coarsen",
        "fas",
        "models",
        "viz",
        "pyproject.toml",
        "README.md",
        "LICENSE",
    }  # by setuptools itself
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text(encoding="utf8").splitlines()]
    made = {"PKG-INFO", "setup.cfg"}
    entries = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")} | {".ci", ".github", ".gitignore"}
    left = {name for name in entries - made if not any(fnmatch.fnmatch(name, pattern) for pattern in ignored)}
    assert left <= named | packed


def test_actions_of_workflows_are_pinned_by_their_commits_and_may_only_read():
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))
    assert workflows
    for workflow in workflows:
        text = workflow.read_text(encoding="utf8")
        for action in re.findall(r"uses: (.*)", text):
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action
        assert re.search(r"^permissions:\n  contents: read\n\w", text, re.MULTILINE)
        assert "write" not in text
