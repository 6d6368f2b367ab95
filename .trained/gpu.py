"""gpu.py TIER SECONDS BATCH SIZE STYLES... : train the gallery for so many seconds, one-cycle over time."""
import dataclasses, io, json, lzma, math, os, signal, sys, tarfile, time
T0 = time.monotonic()
from pathlib import Path
import torch, safetensors.torch as st
from models.vgg import VGG19Features
OUT = Path(os.environ["OUT"]); HERE = Path(".gpu").resolve()
tier, budget, batch, size = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
names = sys.argv[5:]
vgg = Path("/tmp/vgg19.safetensors")
if not vgg.is_file():
    tensors = st.load(lzma.decompress((HERE / "vgg.xz").read_bytes()))
    own = VGG19Features(None) if False else None
    from models.vgg import CONVS, _INDEX
    widths = {"1": 64, "2": 128, "3": 256, "4": 512, "5": 512}
    for conv in CONVS:
        key = f"features.{_INDEX[conv]}"
        if f"{key}.weight" not in tensors:
            tensors[f"{key}.weight"] = torch.zeros(512, 512, 3, 3, dtype=torch.float16)
            tensors[f"{key}.bias"] = torch.zeros(512, dtype=torch.float16)
    st.save_file(tensors, vgg)
os.environ["ALLAPRIMA_VGG19"] = str(vgg)
from rich.console import Console
from training import update, loop, runs
from training.checkpoint import load_newest_state
from training.gallery.train import config_of, read_gallery
from models.errors import Interrupted
torch._dynamo.config.recompile_limit = 64
if hasattr(torch._dynamo.config, "cache_size_limit"): torch._dynamo.config.cache_size_limit = 64

began = [0.0]
def time_lr(optimizer, config, step, scale=1.0):
    if step == 0: began[0] = time.monotonic()
    share = (time.monotonic() - began[0]) / max(1.0, budget - (began[0] - T0))
    rise = min(1.0, (step + 1) / 60)
    fall = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor): group["lr"].fill_(config.lr * scale * rise * fall)
        else: group["lr"] = config.lr * scale * rise * fall
update.set_learning_rate_ = time_lr
plain_read = runs.Runs.read
marks = []
def read(self, step, due, stopped):
    plain_read(self, step, due, stopped)
    if due.log:
        marks.append((step, time.monotonic() - T0))
        if len(marks) > 1:
            (a, s), (b, e) = marks[-2:]
            print(f"@{e:.0f}s step {b}: {(b - a) * batch * len(self.runs) / (e - s):.0f} photos/s all styles", flush=True)
        if e_over(): os.kill(os.getpid(), signal.SIGINT)
def e_over(): return time.monotonic() - T0 > budget
runs.Runs.read = read

gallery = read_gallery()
LR = {"realtime": 1.5e-3, "quality": 1.5e-3}[tier]
configs, folders = [], []
for label in names:
    name, _, init = label.partition(":")
    own = Path(f"checkpoints/{name}/{tier}.safetensors").resolve()
    wave = Path(f"checkpoints/great_wave/{tier}.safetensors").resolve()
    start = init or (str(own) if own.is_file() else str(wave) if tier == "quality" else "base")
    config = config_of(name, gallery[name], HERE / "styles", photos=str(HERE / "photos"), tier=tier, steps=100_000,
        batch_size=batch, size_px=size, style_weight=float(os.environ.get("SW", 7)), lr=LR, init=start, checkpoint_every=10**6, preview_every=10**6,
        compile=os.environ.get("COMPILE", "auto"))
    configs.append(config); folders.append(Path("/tmp/runs") / (label.replace(":", "_") + "-" + tier))
for folder in folders:
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir(): old.unlink() if old.is_file() else None
print(f"setup {time.monotonic() - T0:.1f}s", torch.__version__, torch.cuda.is_available() and torch.cuda.get_device_name(), flush=True)
try:
    loop.train_together(configs, folders, Console(width=240, highlight=False))
except Interrupted as error:
    print(str(error)[:80], flush=True)
print(f"trained by {time.monotonic() - T0:.1f}s", flush=True)
tars = []
for i, folder in enumerate(folders):
    state, card = load_newest_state(folder, print)
    ema = {k.removeprefix("ema."): v.contiguous().cpu() for k, v in state.tensors.items() if k.startswith("ema.")}
    if tier == "quality": ema = {k: v.half() for k, v in ema.items()}
    card["options"]["steps"] = state.step
    if i % (4 if tier == "quality" else 40) == 0: tars.append(tarfile.open(OUT / f"{tier}_{len(tars)}.tar", "w"))
    for file, data in ((f"{folder.name}/weights.safetensors", st.save(ema)), (f"{folder.name}/card.json", json.dumps(card).encode()),
                 (f"{folder.name}/metrics.jsonl", (folder / "metrics.jsonl").read_bytes())):
        info = tarfile.TarInfo(file); info.size = len(data); tars[-1].addfile(info, io.BytesIO(data))
    print(folder.name, state.step, card["losses"], flush=True)
for t in tars: t.close()
print(f"done {time.monotonic() - T0:.1f}s", flush=True)
os._exit(0)
