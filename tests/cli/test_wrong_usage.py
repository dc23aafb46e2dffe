"""Wrong usage of every command gives one line with the remedy and the documented code, and leaves no files."""

import json
import os
import shlex
import sys
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import netgraph as ng
from netgraph.cli import main as cli
from netgraph.models.perceptron import mlp

pytestmark = pytest.mark.no_cover
ARCH = "--arch netgraph.models:mlp --arch-arg sizes=[64,16,12,10]"
GOOD = f"good.pt {ARCH} --levels 2"
# may stand before the sentence
NOTES = ("netgraph: guessed --input", "netgraph: torchvision", "netgraph: compiling kernels")
MINE = """
import sys, torch
from torch import nn
value = 3
def boom(): raise RuntimeError('first line\\nsecond line')
def three(): return 3
def leaves(): sys.exit(5)
class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(64, 8), nn.Linear(8, 3)
    def forward(self, x):
        return self.b(torch.renorm(self.a(x), 2, 0, 1.0))
class Branch(Odd):
    def forward(self, x):
        return self.b(self.a(x)) if self.a(x).sum() > 0 else self.a(x)
def linear(): return nn.Linear(64, 3)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Make a folder with files of all kinds, good and bad. Tests run in it and leave it as it was."""
    here = tmp_path_factory.mktemp("wrong")
    state = mlp((64, 16, 12, 10)).state_dict()
    torch.save(state, here / "good.pt")
    torch.save(mlp((64, 16, 12, 10)), here / "whole.pt")
    torch.save(mlp((64, 1, 1, 10)).state_dict(), here / "one.pt")
    odd = {f"{n}.{p}": torch.zeros(s) for n, p, s in (("a", "weight", (8, 64)), ("a", "bias", 8), ("b", "weight", (3, 8)), ("b", "bias", 3))}  # fmt: skip
    torch.save(odd, here / "odd.pt")
    torch.save({"weight": torch.zeros(3, 64), "bias": torch.zeros(3)}, here / "linear.pt")
    data = (here / "good.pt").read_bytes()
    (here / "cut.pt").write_bytes(data[: len(data) // 2])
    (here / "flip.pt").write_bytes(data[:1500] + bytes([data[1500] ^ 16]) + data[1501:])
    with zipfile.ZipFile(here / "deep.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("deep/data.pkl", bytes(2**26))
    save_file(state, here / "good.safetensors")
    (here / "cut.safetensors").write_bytes((here / "good.safetensors").read_bytes()[:100])
    (here / "head.safetensors").write_bytes((2**40).to_bytes(8, "little") + b"{}")
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    (here / "tera.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    hierarchy = ng.build_hierarchy(mlp((64, 16, 12, 10)), torch.randn(2, 64))
    ng.save(hierarchy, here / "made.hierarchy")
    ng.save(hierarchy.levels[1].model, here / "small.safetensors")
    small = bytearray((here / "small.safetensors").read_bytes())
    small[-3] ^= 4
    (here / "damaged.safetensors").write_bytes(bytes(small))
    for name, text in {
        "empty.pt": "", "text.pt": "hello", "x.xyz": "x", "mine.py": MINE, "syntax.py": "def f(:\n", "bad.json": "{",
        "none.json": "{}", "unknown.json": '{"model_type": "nosuch"}', "is-a.hierarchy": "x", "text.npy": "hello",
    }.items():  # fmt: skip
        (here / name).write_text(text)
    for name in ("folder", "kept", "bare", "is.html", "is.safetensors", "is.pt"):
        (here / name).mkdir()
    (here / "kept" / "notes.txt").write_text("mine")
    (here / "bare" / "config.json").write_text('{"model_type": "bert"}')
    np.save(here / "rows.npy", np.zeros((8, 64), np.float32))
    np.save(here / "wide.npy", np.zeros((8, 65), np.float32))
    (here / os.fsdecode(b"bad\xff.pt")).write_bytes(data)
    return here


@pytest.fixture
def typed(folder, monkeypatch, capsys):
    """Return a function that runs a command line in the folder: exit code, stdout, lines of stderr."""

    def type_(line):
        monkeypatch.chdir(folder)
        monkeypatch.delenv("NETGRAPH_DATA", raising=False)
        monkeypatch.setattr(sys, "argv", ["netgraph", *shlex.split(line)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capsys.readouterr()
        return left.value.code or 0, out, err.splitlines()

    return type_


CASES = f"""
2 coarsen -> missing argument 'MODEL'. See `netgraph coarsen --help`
2 nosuch -> no such command 'nosuch'
2 coarsen {GOOD} extra -> unexpected extra argument
2 coarsen {GOOD} --levles 3 -> no such option: --levles
2 coarsen {GOOD} --ratio abc -> '--ratio': this is no number between 0 and 1 (found 'abc')
2 coarsen {GOOD} --ratio gap:0.05 -> needs a loss to measure, which only `netgraph train` has. Give a share such as 0.5, or --budget error=0.05
1 train mlp --augment crop -> moves pictures, and mlp reads none. Leave it out
2 train mlp --ratio gap:much -> this is no number between 0 and 1, and no bound such as gap:0.05 (found 'gap:much')
2 train mlp --ratio gap:inf -> this is no number between 0 and 1, and no bound such as gap:0.05 (found 'gap:inf')
1 train mlp --option level.².lr=1 -> names no level. Write level.2.lr for the third level
1 coarsen {GOOD} --fix 0={"9" * 5000} -> is not AXIS=UNITS, as in layer1.0.conv1=0,5,7
1 train mlp --coarsen depth --ratio gap:0.05 -> a gap or a budget chooses how many units merge, but 'depth' merges no units
1 train mlp --levels 1 --schedule-per-level -> --schedule-per-level would have no effect: --levels 1 is the network alone
2 coarsen {GOOD} --ratio=abc -> (found 'abc')
2 coarsen {GOOD} --levels 2.5 -> (found '2.5')
2 coarsen {GOOD} --seed -1 -> '--seed': a seed is a whole number from 0 on and below 2^32 (found '-1')
2 coarsen {GOOD} --ratio -> '--ratio'
2 verify {GOOD.replace(" --levels 2", "")} --tolerance x -> (found 'x')
2 inspect -> missing argument 'MODEL'
2 export good.pt -> missing argument 'OUT'
2 train -> missing argument 'NETWORK'
2 ui --port abc -> (found 'abc')
2 ui --port 99999999 -> less than or equal to 65535
2 plugins extra -> unexpected extra argument
2 demo --seed x -> (found 'x')
1 coarsen none.pt -> none.pt does not exist. Give a .pt
1 coarsen folder -> folder is a folder without a config.json of netgraph, transformers or timm
1 coarsen empty.pt -> empty.pt is empty. Save the network again.
1 coarsen cut.pt {ARCH} -> truncated or of another type. Download or save it again.
1 coarsen flip.pt {ARCH} -> the checksum of
1 coarsen text.pt {ARCH} -> text.pt is not a PyTorch file. Give a .pt state dict
1 coarsen deep.pt {ARCH} -> deep.pt unpacks to 67,108,864 bytes
1 coarsen 'bad\udcff.pt' {ARCH} -> is not UTF-8, and PyTorch cannot open it. Rename the file.
1 coarsen x.xyz -> x.xyz ends in .xyz. netgraph opens .pt
1 coarsen whole.pt -> or give --trust if you made the file
1 coarsen whole.pt --trust {ARCH} -> whole.pt is a whole module, and --arch netgraph.models:mlp would have no effect
1 coarsen cut.safetensors -> It is truncated or damaged. Download or save it again.
1 coarsen head.safetensors -> header too large
1 coarsen tera.safetensors -> file not fully covered
1 coarsen damaged.safetensors -> its contents do not fit its sha256
1 coarsen small.safetensors --arch x:y -> contains its network, and --arch x:y would have no effect
1 coarsen small.safetensors --arch-arg a=1 -> contains its network, and --arch-arg would have no effect
1 coarsen small.safetensors --trust -> --trust would have no effect: small.safetensors is opened without running code
1 coarsen good.safetensors -> --arch package.module:factory
1 coarsen small.safetensors -o small.safetensors -> small.safetensors is the network that is read, and it would be replaced. Give another name
1 compress small.safetensors --data rows.npy -o ./small.safetensors -> is the network that is read
1 compress made.hierarchy --data rows.npy -o made.hierarchy -> is the network that is read
1 export made.hierarchy made.hierarchy -> is the network that is read
1 finetune made.hierarchy --teacher small.safetensors --data rows.npy -o small.safetensors -> is the network that is read
1 coarsen good.pt -> --arch package.module:factory
1 coarsen good.pt --arch torchvision:squeezenet1_1 -> good.pt does not fit torchvision:squeezenet1_1: missing
1 coarsen good.pt --arch netgraph.models.perceptron -> names no factory. Write package.module:factory
1 coarsen good.pt --arch nosuchmodule:f -> No module named 'nosuchmodule'. Give --code-dir
1 coarsen good.pt --arch mine:nothing -> module mine has no callable nothing
1 coarsen good.pt --arch mine:value -> module mine has no callable value
1 coarsen good.pt --arch mine:boom -> building mine:boom fails (RuntimeError: first line). Check the name and --arch-arg.
1 coarsen good.pt --arch mine:three -> mine:three returned 3 of type int. It must return a torch.nn.Module.
1 coarsen good.pt --arch mine:leaves -> building mine:leaves fails (SystemExit: 5)
1 coarsen good.pt --arch syntax:f -> SyntaxError
1 coarsen {GOOD} --arch-arg nonsense -> --arch-arg 'nonsense' is not of the form key=value
1 coarsen {GOOD} --arch-arg depth=3 -> unexpected keyword argument 'depth'
1 coarsen {GOOD} --arch-arg sizes=[64,9,12,10] -> good.pt does not fit netgraph.models:mlp: 0.weight is (16, 64), not (9, 64)
1 coarsen torchvision:nosuch -> Unknown model nosuch
1 coarsen torchvision: -> names no factory
1 coarsen torchvision:squeezenet1_1 --arch x:y -> is built by its name, and --arch x:y would have no effect
1 coarsen torchvision:squeezenet1_1 --trust -> --trust would have no effect: torchvision:squeezenet1_1 is the name
1 coarsen torchvision:squeezenet1_1 --key ema -> is built by its name, and --key ema would have no effect
1 coarsen torchvision:squeezenet1_1 --download -> --download would have no effect: torchvision:squeezenet1_1 names no weights to fetch
1 coarsen torchvision:squeezenet1_1@nosuch -> the weights are IMAGENET1K_V1
1 coarsen {GOOD} --download -> --download would have no effect
1 coarsen {GOOD} --key ema -> has no weights for netgraph.models:mlp under --key ema. It has the file itself
1 coarsen small.safetensors --key ema -> contains its network, and --key ema would have no effect
1 coarsen torchvision:squeezenet1_1 --code-dir folder -> --code-dir would have no effect
1 coarsen {GOOD} --code-dir nosuch -> --code-dir nosuch is not a folder
1 coarsen {GOOD} --input 2x63 -> mat1 and mat2 shapes cannot be multiplied (2x63 and 64x16)
1 coarsen {GOOD} --input 2x64:int64 -> must have the same dtype, but got Long and Float
1 coarsen {GOOD} --input 2x64:int7 -> there is no dtype 'int7'
1 coarsen {GOOD} --input 2,64 -> --input '2,64' is not SIZES[:DTYPE]
1 coarsen {GOOD} --input 2x64 --input 2x64 -> takes 2 positional arguments but 3 were given
1 coarsen {GOOD} --input x=2x64 -> unexpected keyword argument 'x'
1 coarsen {GOOD} --input 2x0 -> sizes are positive numbers
1 coarsen {GOOD} --input 99999999x64 -> at most 2,147,483,648 are allowed
1 coarsen odd.pt --arch mine:Branch --input 2x64 -> the network branches on numbers
1 coarsen {GOOD} --ratio 0 -> is 0.0. Give one above 0 and at most 1
1 coarsen {GOOD} --ratio -1 -> is -1.0. Give one above 0 and at most 1
1 coarsen {GOOD} --ratio 2 -> is 2.0. Give one above 0 and at most 1
1 coarsen {GOOD} --ratio nan -> is nan. Give one above 0 and at most 1
3 coarsen {GOOD} --ratio 1 -> keep every unit
1 coarsen {GOOD} --levels 0 -> n_levels (--levels) is 0. Give 2 or more
1 coarsen {GOOD} --levels -1 -> n_levels (--levels) is -1. Give 2 or more
1 coarsen {GOOD} --keep nosuch -> no axis is named 'nosuch'. Axes that may merge are 0, 2
3 coarsen {GOOD} --keep 0 --keep 2 -> nothing in this network can be merged
1 coarsen {GOOD} --axis-ratio 0 -> is not AXIS=RATIO
1 coarsen {GOOD} --fix 0 -> --fix '0' is not AXIS=UNITS
1 coarsen {GOOD} --fix 0=1,x -> --fix '0=1,x' is not AXIS=UNITS
1 coarsen {GOOD} --fix 0=1 --keep 0 -> axis '0' has fixed units, but all its units stay alone (you asked to keep it)
1 coarsen {GOOD} --axis-ratio nosuch=0.5 -> no axis is named 'nosuch'
1 coarsen {GOOD} --axis-ratio 4=0.5 -> axis '4' has a ratio, but it is kept (a dimension of output 0). Leave its ratio out
1 coarsen {GOOD} --axis-ratio 0=0.5 --axis-ratio 0=0.2 -> --axis-ratio gives 0 two ratios
1 coarsen {GOOD} --axis-ratio 0=0.5 --keep 0 -> --keep 0 contradicts --axis-ratio 0, which merges its units. Give one of the two
1 coarsen {GOOD} --coarsen space --axis-ratio 0=0.5 -> --axis-ratio would have no effect: --coarsen space halves the resolution
1 coarsen {GOOD} --coarsen depth --axis-ratio 0=0.5 -> axis '0' has a ratio, but depth merges no units
1 coarsen {GOOD} --axis-ratio '*=0.5' --ratio 0.3 -> --ratio would have no effect
1 coarsen {GOOD} --round-to 0 -> Give a multiple of 1 or more
1 coarsen {GOOD} --coarsener nosuch -> no coarsener named 'nosuch'. Installed: adjacent, graclus, hem
1 coarsen {GOOD} --depth-by copy -> --depth-by would have no effect: --coarsen channels merges no blocks
1 coarsen {GOOD} --blocks 1 -> --blocks would have no effect: --coarsen channels merges no blocks
1 coarsen {GOOD} --coarsen depth --blocks 1 --ratio 0.3 -> --ratio would have no effect: --blocks says how many blocks stay
1 coarsen {GOOD} --coarsen depth --depth-by nosuch -> depth_by is 'nosuch'. Give split or copy
1 coarsen {GOOD} --affinity nosuch -> no affinity named 'nosuch'
1 coarsen {GOOD} --coarsener kmeans --affinity relu -> --affinity would have no effect: the coarsener kmeans reads no affinities
1 coarsen {GOOD} --affinity correlation -> there are no calibration data
1 coarsen {GOOD} --repair nosuch -> no repair is called 'nosuch'. Choose one of none, rescale
1 coarsen {GOOD} --repair ridge -> needs calibration data
1 coarsen {GOOD} --data nosuch -> neither a data set (digits
1 coarsen {GOOD} --data wide.npy -> holds rows × 65 inputs, and the network takes rows × 64
1 coarsen {GOOD} --data text.npy -> cannot be read
1 coarsen {GOOD} --data mnist -> set NETGRAPH_DATA
1 coarsen {GOOD} --samples 4 -> --samples would have no effect
1 coarsen {GOOD} --budget half -> is not KIND=SHARE. Give one of parameters
1 coarsen {GOOD} --budget units=1e-9 -> cannot be met with 0.125 of every axis. Give a larger one
1 coarsen {GOOD} --budget units=0.5 --ratio 0.3 -> --ratio would have no effect: --budget replaces the ratios of all axes
1 coarsen {GOOD} --budget units=0.5 --axis-ratio 0=0.3 -> --axis-ratio would have no effect: --budget replaces the ratios of all axes
3 coarsen one.pt --arch netgraph.models:mlp --arch-arg sizes=[64,1,1,10] -> nothing in this network can be merged
3 coarsen odd.pt --arch mine:Odd -> mixed by an operator on whole tensors: aten.renorm at
3 coarsen linear.pt --arch mine:linear -> a dimension of output 0
1 coarsen {GOOD} -o x.pt -> ends in .pt. Give NAME.safetensors
1 coarsen {GOOD} -o kept -> kept would be replaced, and it holds 'notes.txt', which netgraph has not written. Move it away, or give another name.
1 coarsen {GOOD} -o . -> . is the folder that you work in, and it would be replaced. Give the name of another.
1 coarsen {GOOD} -o x.folder -> ends in .folder. Give NAME.safetensors for the coarsest network, NAME for a folder with a card
1 coarsen {GOOD} -o nosuch/x -> does not exist. Create it first.
1 coarsen {GOOD} -o nosuch/x.safetensors -> does not exist. Create it first.
1 coarsen {GOOD} -o is.safetensors -> is.safetensors is a folder, and a file is to be written there
1 coarsen {GOOD} -o is-a.hierarchy -> is-a.hierarchy is a file, and a folder is to be created there
1 coarsen {GOOD} --export x.docx -> x.docx ends in .docx, which no exporter writes. Installed: .dot
1 coarsen {GOOD} --export nosuch/x.html -> does not exist. Create it first.
1 coarsen {GOOD} --export is.html -> is.html is a folder
1 coarsen {GOOD} --own-class x.safetensors -> is saved whole in a .pt file
1 coarsen {GOOD} --own-class nosuch/x.pt -> does not exist. Create it first.
1 coarsen {GOOD} --own-class is.pt -> is.pt is a folder
1 coarsen small.safetensors --own-class x.pt -> its own class is unknown
1 inspect none.pt -> does not exist
1 inspect good.pt {ARCH} --input 3x3 -> shapes cannot be multiplied (3x3 and 64x16)
1 inspect torchvision:squeezenet1_1 --trust -> --trust would have no effect
1 verify none.pt -> does not exist
1 verify good.pt {ARCH} --tolerance nan -> --tolerance nan is no relative error
1 verify good.pt {ARCH} --tolerance -1 -> --tolerance -1.0 is no relative error
1 export none.pt x.html -> none.pt does not exist
1 export folder x.html -> folder is not a hierarchy
1 export kept x.html -> kept is not a hierarchy
1 export bare x.html -> bare has a config.json and no weights. Give hf:bare for random ones
1 coarsen bare -> bare has a config.json and no weights. Give hf:bare for random ones
1 export {GOOD.replace("good.pt", "good.pt x.docx")} -> which no exporter writes
1 export {GOOD.replace("good.pt", "good.pt is.html")} -> is.html is a folder
1 export {GOOD.replace("good.pt", "good.pt x.html")} --data rows.npy -> --data would have no effect
1 export {GOOD.replace("good.pt", "good.pt x.level9.graphml")} -> x.level9.graphml asks for level 9
1 export made.hierarchy x.html --levels 3 --ratio 0.2 -> --levels, --ratio would have no effect: made.hierarchy is a hierarchy
1 demo --folder good.pt -> good.pt cannot be created as a folder (File exists). Something is there already. Give another name.
1 train nosuch -> no network to train is called 'nosuch'. There are mlp, cnn
1 train mlp --data nosuch -> no data set is called 'nosuch'
1 train mlp --data mnist -> is read from a folder, and no folder was given
1 train mlp --data mnist --data-root nosuch -> nosuch has no folder MNIST/raw for mnist. Fetch it with --download
1 train mlp --data-root nosuch -> --data-root would have no effect: digits ship with scikit-learn
1 train mlp --download -> --download would have no effect: digits ship with scikit-learn
1 train mlp --length 5 -> --length would have no effect: digits is no text
1 train mlp --task lm -> cannot predict tokens
1 train mlp --widths abc -> --widths 'abc' is no list of numbers
1 train mlp --cycle nosuch -> no cycle is called 'nosuch'
1 train mlp --epochs nan -> epochs is nan. Give a number above 0
1 train mlp --lr 0 -> lr is 0.0. Give a rate above 0
1 train mlp --weight-decay -1 -> --weight-decay is -1. Give a number of 0 or more
1 train mlp --optimizer nosuch -> no optimizer is called 'nosuch'
1 train mlp --label-smoothing 2 -> --label-smoothing is 2
1 train mlp --option nosuch -> is not NAME=VALUE
1 train mlp --option nosuch=1 -> no option is called 'nosuch'
1 train mlp --option level.3.lr=1 -> is for level 3, and there are 3, numbered from 0
1 train mlp --cycle v --option level.2.gate.gap=1 -> is about a coarser level, and level 2 is the coarsest
1 train mlp --option level.2.estimate.kind=multilevel -> is about a coarser level, and level 2 is the coarsest
1 train mlp --cycle additive --option estimate.kind=multilevel -> is about gradients from coarser levels, which the cycle additive does not have
1 train mlp --option estimate.kind=plain -> option estimate.kind is 'plain'. Choose one of minibatch, multilevel, multifidelity
1 train mlp --cycle v --option level.1.ema=0.9 -> The running mean belongs to the finest level: give level.0.ema
1 train mlp --option level.1.gate.gap=1 -> is about coarse steps, which the cycle kaskade does not have
1 train mlp --cycle additive --option level.1.cycles=2 -> is about cycles on coarse levels, which the cycle additive does not have
1 train mlp --option gate.gap=1 -> is about coarse steps, which the cycle kaskade does not have
1 train mlp --option split.blocks=half -> Choose one of prolonged, copied, zero, random
1 train mlp --option split.blocks=zero -> is about new blocks, and --coarsen channels merges none
1 train mlp --optimizer muo -> There are adam, adamw, rmsprop, sgd, muon
1 train mlp --cycle v --option smoothing.rewarm=3 -> is about levels that start from coarser ones, which the cycle v does not have
1 train mlp --cycle additive --option split.rewarm=3 -> is about levels that start from coarser ones, which the cycle additive does not have
1 train mlp --option level.2.rewarm=3 -> is about a coarser level, and level 2 is the coarsest
1 train denoise --coarsen space --option split.rewarm=3 -> is about new units and blocks, and --coarsen space merges none
1 train mlp --option split.rewarm=-1 -> option split.rewarm is -1. Give a number of 0 or more
1 train mlp --cycle v --option split.noise=1 -> is about levels that start from coarser ones, which the cycle v does not have
1 train mlp --cycle v --share 1,1,1 -> --share would have no effect
1 train mlp --levels 1 --ratio 0.2 -> --ratio would have no effect: --levels 1 is the network alone
1 train mlp --option smoothing.clip=-1 -> option smoothing.clip is -1. Give a number above 0
1 train mlp --coarsener ward --affinity relu -> --affinity would have no effect: the coarsener ward reads no affinities
1 train mlp --depth-by copy -> --depth-by would have no effect: --coarsen channels merges no blocks
1 train mlp --inside-heads -> no dimensions inside heads may merge: the network has no attention of several heads. Leave
1 train transformer --tokenizer nosuch -> nosuch is no tokenizer. Give a JSON file
1 train mlp --every 2 -> --every would have no effect: no checkpoints are kept
1 train mlp --resume -> --resume needs a folder of checkpoints. Give --checkpoints FOLDER too
1 train mlp --device nosuch -> --device nosuch is not available
1 train mlp --alert nosuch:warn -> no rule is called 'nosuch'
1 train mlp -o x.txt -> ends in .txt. Give NAME.safetensors or NAME.pt
1 train mlp -o nosuch/x.pt -> does not exist. Create it first.
"""


@pytest.mark.parametrize("case", CASES.strip().splitlines(), ids=lambda case: ascii(case.partition(" -> ")[0]))
def test_wrong_usage_is_one_sentence_and_a_code_and_leaves_nothing(typed, folder, case):
    typed_line, _, fragment = case.partition(" -> ")
    code, _, line = typed_line.partition(" ")
    before = sorted(p.name for p in folder.rglob("*") if "__pycache__" not in p.parts)
    exit_code, out, lines = typed(line)
    *notes, sentence = lines
    assert (str(exit_code), out) == (code, "")
    assert sentence.startswith("netgraph: ")
    assert fragment in sentence
    assert all(note.startswith(NOTES) for note in notes)
    assert sorted(p.name for p in folder.rglob("*") if "__pycache__" not in p.parts) == before


def test_a_plain_control_lists_the_options_that_it_leaves_out(typed):
    code, out, lines = typed("train mlp --plain --cycle v --levels 2 --epochs 0.1")
    assert code == 0
    assert "test accuracy" in out
    assert lines[0] == "netgraph: --plain trains the finest level alone and ignores --levels, --cycle"


@pytest.mark.parametrize("has", [False, True])
def test_bfloat16_on_a_processor_without_it_warns_of_slowness(typed, monkeypatch, has):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": has, "num_sockets": 1})
    code, _, lines = typed("train mlp --plain --epochs 0.1 --bf16")
    assert code == 0
    assert ("netgraph: --bf16 makes it slower: this cpu has no units for bfloat16" in lines) is not has
