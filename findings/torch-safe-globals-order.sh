#!/usr/bin/env bash
# torch 2.13.0: of two callables allowed under one name, torch.load(weights_only=True) takes one by the order of a set.
#
# add_safe_globals takes pairs (callable, name in the file), so that a file's class can be read as another one. Packages allow
# names on import (torch_geometric allows collections.defaultdict). If a caller allows the same name for something of its own,
# the two stand in a set that is ordered by addresses, and the last one of the set wins. The order of the calls does not
# matter. The same program therefore reads the same checkpoint as different objects from run to run.
#
# Seen: of 64 pairs, the first wins in some and the second in others. Exits 1 if one always wins.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --no-compile --target "$folder" torch==2.13.0 numpy==2.4.6
PYTHONPATH=$folder python3 - <<'PYTHON'
import collections
import io
import sys

import torch
from torch.serialization import add_safe_globals, clear_safe_globals

file = io.BytesIO()
torch.save({"history": collections.defaultdict(list, loss=[1.0])}, file)
winners, kept = collections.Counter(), []
for _ in range(64):
    first, second = (lambda *_: collections.OrderedDict(read_by="first"), lambda *_: collections.OrderedDict(read_by="second"))
    kept += [first, second]
    clear_safe_globals()
    add_safe_globals([(first, "collections.defaultdict"), list])
    add_safe_globals([(second, "collections.defaultdict")])
    file.seek(0)
    winners[torch.load(file, weights_only=True)["history"]["read_by"]] += 1
print(torch.__version__, dict(winners))
sys.exit(set(winners) != {"first", "second"})
PYTHON
