"""The table of targets by name, and the inputs that the tests replay: the seeds of each, and the files of its folder in ``corpus``."""

from __future__ import annotations

import importlib
from pathlib import Path

from watching import Target

CORPUS = Path(__file__).parent / "corpus"
MODULES = {  # a module is imported when one of its targets is wanted
    "pickle_inputs": ("pickle_in_archive", "legacy_pickle", "zip_archive"),
    "own_formats": ("bundle", "network_document", "hierarchy", "model_folder", "checkpoint", "run_file"),
    "foreign_formats": ("safetensors", "weight_index", "npy", "picture", "tokenizer", "config"),
    "typed_text": ("inputs", "literal", "values", "solver_options", "alerts", "command_line"),
    "graph_files": ("graph_formats", "export_names"),
}
NAMES = [name for names in MODULES.values() for name in names]


def find_target(name: str) -> Target:
    """Return the target of a name."""
    module = next(module for module, names in MODULES.items() if name in names)
    return next(target for target in importlib.import_module(module).TARGETS if target.name == name)


def list_corpus(name: str) -> list[Path]:
    """Return the files of the corpus of a target: inputs that once failed, and inputs that reach much of its code."""
    return sorted(path for path in (CORPUS / name).glob("*") if path.is_file())
