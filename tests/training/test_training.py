"""training/: the loop, resume after kill -9, several processes, checkpoints, cached features."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
import training_cases as cases
from safetensors.torch import load_file
from torch import Tensor

from lexivid.data.loader import collate
from lexivid.errors import LexividError
from lexivid.models.mov import FROZEN_PREFIX, mov_loss
from lexivid.models.system import FROZEN, System
from lexivid.training.batches import Plan, even_batches, micro_batches
from lexivid.training.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from lexivid.training.distributed import trained_state
from lexivid.training.features import CachedVideo, FeatureStore, cache_features
from lexivid.training.log import Progress
from lexivid.training.loop import fit
from lexivid.training.schedule import half_cosine, make_optimizer
from lexivid.training.step import Step

pytest.importorskip("accelerate")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The weights of a run that nobody disturbed."""
    return cases.run(tmp_path_factory.mktemp("whole")).weights


def _equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def _assert_close(a: dict[str, Tensor], b: dict[str, Tensor], *, atol: float = 1e-4, rtol: float = 1e-3) -> None:
    """All weights but the keys' biases: they change no output, their gradient is rounding, and Adam enlarges it."""
    assert a.keys() == b.keys()
    for key in a:
        if not key.endswith("key.bias"):
            torch.testing.assert_close(a[key], b[key], atol=atol, rtol=rtol, msg=lambda text, key=key: f"{key}: {text}")


def test_it_learns_and_reports(tmp_path: Path) -> None:
    seen: list[Progress] = []
    model = cases.tiny_mov()
    before = {k: v.clone() for k, v in model.state_dict().items() if k.startswith(FROZEN_PREFIX)}
    result = fit(
        System(model, cases.labels()), cases.samples(), cases.recipe(epochs=15), tmp_path, images=cases.IMAGES,
        held_out=cases.samples(9, seed=2), device="cpu", on_progress=seen.append,
    )  # fmt: skip
    assert result.state.metrics["accuracy"] == 1.0
    steps = [now for now in seen if now.phase == "training"]
    assert result.state.step == 15 * 3 == len(steps)
    assert [now.total for now in steps] == [45] * 45
    assert steps[0].eta_s is None
    assert steps[-1].eta_s == 0.0
    assert {now.phase for now in seen} == {"training", "evaluating"}  # held-out clips, after each epoch
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.2 * losses[0]
    assert [line["step"] for line in lines if "held_out.accuracy" in line] == list(range(3, 46, 3))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items() if k in before)  # frozen means frozen
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_the_step_is_adamw_on_the_mean_of_eq_9(tmp_path: Path) -> None:
    """One step of the loop against one written out by hand."""
    settings = cases.recipe(epochs=1, batch_size=26, clip_norm=None, weight_decay=0.1)
    by_loop = fit(cases.tiny_system(), cases.samples(), settings, tmp_path, images=cases.IMAGES, device="cpu")
    model = cases.tiny_mov().train()
    batch = collate([cases.samples()[i] for i in range(cases.NUM_CLIPS)])
    streams = {n: cases.IMAGES.normalise(x) if n != "audio" else x for n, x in batch.streams.items()}
    features = model(**streams, mask=batch.mask)
    mov_loss(
        features.v_m, features.x_m, cases.labels(), batch.targets, alpha=0.5, tau=0.1, mask=features.mask
    ).backward()
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in model.parameters() if p.requires_grad and p.ndim == 1]
    torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0}], lr=3e-3
    ).step()
    _assert_close(by_loop.weights, trained_state(System(model, cases.labels())), atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("micro_batch", [1, 2, 3])
def test_accumulation_changes_nothing(tmp_path: Path, whole: dict[str, Tensor], micro_batch: int) -> None:
    """Also where clips could not be read, so that micro-batches are of different sizes."""
    weights = cases.run(tmp_path, micro_batch=micro_batch).weights
    _assert_close(weights, whole)
    broken = cases.run(tmp_path / "a", failing=(2, 3, 9)).weights
    again = cases.run(tmp_path / "b", failing=(2, 3, 9), micro_batch=micro_batch).weights
    _assert_close(again, broken)
    fc2 = "encoder.cross.video.0.mlp.fc2.weight"
    assert not torch.allclose(broken[fc2], whole[fc2], atol=1e-4)


def test_mixup_mixes_over_micro_batches(tmp_path: Path) -> None:
    def mixed(out: Path, micro_batch: int | None) -> dict[str, Tensor]:
        settings = {"data.inputs": ["audio"], "training.mixup": 0.5}
        recipe = cases.recipe(epochs=2, micro_batch=micro_batch).with_settings(settings)
        return fit(cases.tiny_system(), cases.samples(), recipe, out, images=cases.IMAGES, device="cpu").weights

    _assert_close(mixed(tmp_path / "a", 2), mixed(tmp_path / "b", None))


def test_batch_norms_that_learn_take_no_micro_batches(tmp_path: Path) -> None:
    """Their statistics are of one micro-batch: another size is another model, at the start as on resuming."""

    def run(*, resume: bool = False, batch_norm: bool = True, **training: Any) -> int:
        model = cases.tiny_system()
        if batch_norm:
            model.encoder.towers["audio"] = torch.nn.Sequential(torch.nn.BatchNorm2d(3), cases.TinyTower())
        recipe = cases.recipe(**training)
        out = tmp_path / str(batch_norm)
        return fit(
            model, cases.samples(), recipe, out, images=cases.IMAGES, resume=resume, device="cpu"
        ).state.step  # fmt: skip

    with pytest.raises(LexividError, match="leave out training"):
        run(micro_batch=2)
    steps = run(epochs=1)
    with pytest.raises(LexividError, match="8 clips at a time on each process, not 2"):
        run(epochs=2, resume=True, micro_batch=2)
    assert run(epochs=2, resume=True) == 2 * steps
    for path in (tmp_path / "True" / "checkpoints").rglob("state.json"):  # as runs were before this was kept
        found = json.loads(path.read_text())
        del found["micro_batch"]
        path.write_text(json.dumps(found))
    assert run(epochs=3, resume=True, micro_batch=2) == 3 * steps
    run(epochs=1, batch_norm=False)
    run(epochs=2, resume=True, batch_norm=False, micro_batch=2)  # nothing looks at a batch together


def test_failures_are_counted(tmp_path: Path) -> None:
    result = cases.run(tmp_path, failing=(2, 3))
    assert result.state.failures == {"clip2.mp4": "no such file", "clip3.mp4": "no such file"}
    with pytest.raises(LexividError, match="none of the 26 clips can be read"):
        cases.run(tmp_path / "none", failing=tuple(range(26)), epochs=1)  # the epoch leaves two clips out


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(LexividError, match=r"the loss became (nan|inf).*training.lr"):
        fit(
            System(cases.tiny_mov(), cases.labels() * float("nan")), cases.samples(), cases.recipe(), tmp_path,
            images=cases.IMAGES, device="cpu",
        )  # fmt: skip


def test_looks_between_epochs_change_nothing(tmp_path: Path, whole: dict[str, Tensor]) -> None:
    """`on_epoch` sees the model at rest before the first epoch and after each; `checkpoint_every: 0` writes one."""
    seen: list[tuple[int, bool]] = []
    result = fit(
        cases.tiny_system(), cases.samples(), cases.recipe(checkpoint_every=0), tmp_path,
        images=cases.IMAGES, device="cpu", on_epoch=lambda system, epoch: seen.append((epoch, system.training)),
    )  # fmt: skip
    assert seen == [(epoch, False) for epoch in range(5)]
    assert _equal(result.weights, whole)
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints", "step")] == ["step-00000012"]


def test_export_best(tmp_path: Path) -> None:
    result = cases.run(tmp_path, export="best", epochs=6)
    best = list_checkpoints(tmp_path / "checkpoints", "best")
    assert len(best) == 1
    assert result.state.best is not None
    assert best[0].name == f"best-{int(result.state.best['step']):08d}"
    assert _equal(result.weights, load_checkpoint(best[0]).model)


# ---- resume


@pytest.mark.parametrize("stop_after", [1, 2, 3, 5, 11])
def test_resume_equals_no_resume(
    tmp_path: Path, whole: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    """Interrupted within an epoch, at its end, and before the last step."""
    step, done = Step.__call__, []

    def stopping(self: Step, *args: Any, **kwargs: Any) -> Any:
        if len(done) == stop_after:
            raise KeyboardInterrupt
        done.append(1)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(Step, "__call__", stopping)
    with pytest.raises(KeyboardInterrupt):
        cases.run(tmp_path)
    monkeypatch.setattr(Step, "__call__", step)
    assert _equal(cases.run(tmp_path, resume=True).weights, whole)
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    assert len(steps) == 12 + 4  # every step once, every evaluation once


def test_resume_of_a_finished_run_gives_its_weights(tmp_path: Path) -> None:
    first = cases.run(tmp_path)
    assert _equal(cases.run(tmp_path, resume=True).weights, first.weights)


def _kill_and_resume(out: Path, kills: int, seed: int) -> tuple[int, int]:
    """Start, kill -9 at a random moment after the first log line, again and again -> (kills, bad states seen)."""
    rng = random.Random(seed)
    context = get_context("forkserver")
    context.set_forkserver_preload(["training_cases", "accelerate", "torch.utils.tensorboard"])
    done = bad = 0
    while done < kills:
        size = (out / "log.jsonl").stat().st_size if (out / "log.jsonl").exists() else -1
        process = context.Process(target=cases.run, args=(out,), kwargs={"resume": True, "epochs": 4 + kills})
        process.start()
        deadline = time.monotonic() + 120
        while process.is_alive() and time.monotonic() < deadline:
            if (out / "log.jsonl").exists() and (out / "log.jsonl").stat().st_size != size:
                break
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.15))
        if process.is_alive():
            os.kill(process.pid or 0, signal.SIGKILL)
            done += 1
        process.join()
        for kind in ("step", "best"):
            for path in list_checkpoints(out / "checkpoints", kind):
                found = load_checkpoint(path)  # raises where anything is half written
                bad += found.state["step"] != int(path.name.rpartition("-")[2])
        if process.exitcode == 0:
            break
    return done, bad


def test_kill_minus_nine_quick(tmp_path: Path) -> None:
    kills, bad = _kill_and_resume(tmp_path / "killed", 3, seed=1)
    assert (kills, bad) == (3, 0)
    weights = cases.run(tmp_path / "killed", resume=True, epochs=7).weights
    assert _equal(weights, cases.run(tmp_path / "whole", epochs=7).weights)


@pytest.mark.slow
def test_kill_minus_nine_at_many_moments(tmp_path: Path) -> None:
    kills, bad = _kill_and_resume(tmp_path / "killed", 12, seed=2)
    assert bad == 0
    assert kills == 12
    weights = cases.run(tmp_path / "killed", resume=True, epochs=16).weights
    assert _equal(weights, cases.run(tmp_path / "whole", epochs=16).weights)


def test_checkpoints_are_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {"w": torch.arange(3.0)}
    save_checkpoint(tmp_path, "step", step=1, model=weights, optimizer={"w|step": torch.tensor(1.0)}, state={})
    (tmp_path / ".writing-left-by-a-kill").mkdir()
    monkeypatch.setattr(
        "lexivid.training.checkpoint.json.dumps", lambda *a, **k: (_ for _ in ()).throw(OSError("full"))
    )
    with pytest.raises(LexividError, match="cannot be written: full"):
        save_checkpoint(tmp_path, "step", step=2, model=weights, state={})
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    save_checkpoint(tmp_path, "step", step=3, model=weights, state={}, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]
    (tmp_path / "step-00000003" / "model.safetensors").write_bytes(b"x")
    with pytest.raises(LexividError, match=r"step-00000003.* is damaged"):
        load_checkpoint(tmp_path / "step-00000003")


# ---- several processes


@pytest.mark.slow
def test_two_processes_train_the_same_model(tmp_path: Path) -> None:
    """DDP over gloo, with clips that lack streams or cannot be read, against one process."""
    settings = {"failing": (2, 3, 9), "micro_batch": 2}
    one = cases.run(tmp_path / "one", **settings).weights
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += [str(Path(cases.__file__)), str(tmp_path / "two"), repr(settings)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "LEXIVID_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    two = load_file(tmp_path / "two" / "final.safetensors")
    _assert_close(two, one)
    state = load_checkpoint(list_checkpoints(tmp_path / "two" / "checkpoints", "step")[-1])
    assert sorted(state.state["failures"]) == ["clip2.mp4", "clip3.mp4", "clip9.mp4"]  # of both processes
    assert (
        state.optimizer.keys()
        == load_checkpoint(list_checkpoints(tmp_path / "one" / "checkpoints", "step")[-1]).optimizer.keys()
    )


def test_plan_and_shares() -> None:
    plan = Plan.of(26, batch_size=8, micro_batch=3, world=2)
    assert plan == Plan(8, 2, 2, 3)  # 3 does not divide a share of 4
    one = list(micro_batches(26, Plan.of(26, batch_size=8, micro_batch=None, world=1), seed=0, epoch=1))
    both = [list(micro_batches(26, plan, seed=0, epoch=1, rank=r, world=2)) for r in (0, 1)]
    for step in range(3):
        shares = [i for r in (0, 1) for part in both[r][2 * step : 2 * step + 2] for i in part]
        assert sorted(shares) == sorted(one[step])
    assert list(micro_batches(26, plan, seed=0, epoch=1, world=2, start_step=2)) == both[0][4:]
    assert one != list(micro_batches(26, Plan.of(26, batch_size=8, micro_batch=None, world=1), seed=0, epoch=2))
    with pytest.raises(ValueError, match="2 processes"):
        Plan.of(1, batch_size=8, micro_batch=None, world=2)
    for world in (1, 2, 3):
        lists = [even_batches(7, 2, rank=r, world=world) for r in range(world)]
        assert len({len(x) for x in lists}) == 1
        assert {i for x in lists for part in x for i in part} == set(range(7))


def test_schedule_and_groups() -> None:
    assert half_cosine(0, 100) == 1.0
    assert half_cosine(50, 100) == pytest.approx(0.5)
    assert 0 < half_cosine(99, 100) < 0.001
    assert [half_cosine(i, 100, warmup_steps=4) for i in range(4)] == [0.25, 0.5, 0.75, 1.0]
    model = cases.tiny_system()
    optimizer = make_optimizer(model, cases.recipe(lr=1e-3, tower_lr=1e-2, weight_decay=0.1).training)
    found = {(g["lr"], g["weight_decay"]) for g in optimizer.param_groups}
    assert found == {(1e-3, 0.1), (1e-3, 0.0), (1e-2, 0.1), (1e-2, 0.0)}
    chosen = {id(p) for g in optimizer.param_groups for p in g["params"]}
    assert chosen == {id(p) for n, p in model.named_parameters() if not n.startswith(FROZEN)}


# ---- cached features of the frozen tower


class _Looks:
    """Samples that differ by epoch, and count how often they were asked for."""

    def __init__(self, *names: str, missing: tuple[int, ...] = (), failing: tuple[int, ...] = ()) -> None:
        self.names, self.missing, self.failing, self.epoch, self.asked = names, missing, failing, 0, 0

    def __len__(self) -> int:
        return 5

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.asked += 1
        known = {"index": index, "path": f"clip{index}"}
        if index in self.failing:
            return {**known, "failed": "broken"}
        if index in self.missing:
            return {**known, "failed": "none of it", "empty": True}
        pictures = torch.full((3, 3, 8, 8), index * 10 + self.epoch, dtype=torch.uint8)
        mask = torch.tensor([name in self.names for name in cases.ALL])
        return {**known, "mask": mask, "target": index % 3, **{name: pictures for name in self.names}}


def test_cached_features(tmp_path: Path) -> None:
    tower = cases.TinyTower()
    clips, goals = [(f"clip{i}", f"content {i}") for i in range(5)], {"target": [i % 3 for i in range(5)]}
    store = FeatureStore(tmp_path)

    def encode(pictures: Tensor) -> Tensor:
        return tower(cases.IMAGES.normalise(pictures)).detach()

    flow, sound = _Looks("flow", missing=(1, 2)), _Looks("audio")
    cached = CachedVideo(clips, goals, store, {"a": 1}, num_looks=2, num_modalities=3, flow=flow, sound=sound)
    full = _Looks("video", missing=(2,), failing=(3,))
    assert cache_features(cached, full, encode, width=cases.D) == {"clip3": "broken"}
    assert full.asked == 10
    cached.set_epoch(5)  # look 1
    assert (flow.epoch, sound.epoch) == (1, 5)
    sample = cached[0]
    assert torch.equal(sample["video"], encode(torch.full((3, 3, 8, 8), 1, dtype=torch.uint8)))
    assert sample["mask"].tolist() == [True, True, True]
    assert cached[1]["mask"].tolist() == [True, False, True]  # no flow is no failure
    assert cached[2]["video"] is None
    assert cached[2]["mask"].tolist() == [False, False, True]
    assert "could not be read" in cached[3]["failed"]
    again = _Looks("video", missing=(2,), failing=(3,))
    assert cache_features(cached, again, encode, width=cases.D) == {"clip3": "broken"}
    assert again.asked == 2  # only what failed is tried again
    other = CachedVideo(clips, goals, store, {"a": 2}, num_looks=2, num_modalities=3)
    assert other.key(0, 0) != cached.key(0, 0) != cached.key(1, 0) != cached.key(1, 1)
    store.path(cached.key(4, 1)).write_bytes(b"half")
    assert "could not be read" in cached[4]["failed"]  # damaged counts as missing, and is not read


@pytest.mark.slow
def test_sharded_state_is_whole(tmp_path: Path) -> None:
    """`gather_state` and `restore_state` under FSDP2 (two gloo processes), against an unsharded model."""
    program = tmp_path / "program.py"
    program.write_text(_SHARDED)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", str(program)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(cases.__file__).parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("same") == 2


_SHARDED = """
import torch, training_cases as cases
from types import SimpleNamespace
from torch.distributed.fsdp import fully_shard
from lexivid.training.checkpoint import Checkpoint
from lexivid.training.distributed import gather_state, restore_state
from lexivid.training.schedule import make_optimizer
torch.distributed.init_process_group("gloo")
mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
sharding = SimpleNamespace(distributed_type="DistributedType.FSDP")
plain = SimpleNamespace(distributed_type="DistributedType.NO", unwrap_model=lambda m: m)

def step(model, optimizer):
    x = torch.randn(4, 3, cases.D, generator=torch.Generator().manual_seed(3))
    out = model(video=x, flow=x * 2, audio=x[:, :1])
    (out.v_m.square().mean() + sum(y.square().mean() for y in out.x_m.values())).backward()
    optimizer.step()
    optimizer.zero_grad()

one = cases.tiny_mov(); o1 = make_optimizer(one, cases.recipe().training); step(one, o1)
two = cases.tiny_mov()
for layer in [*two.temporal.values(), *two.cross.values()]:
    if not isinstance(layer, torch.nn.ModuleList):
        fully_shard(layer, mesh=mesh)
fully_shard(two, mesh=mesh)
o2 = make_optimizer(two, cases.recipe().training); step(two, o2)
w1, s1 = gather_state(plain, one, o1)
w2, s2 = gather_state(sharding, two, o2)
if torch.distributed.get_rank() == 0:
    assert w1.keys() == w2.keys() and s1.keys() == s2.keys(), (s1.keys() ^ s2.keys())
    for a, b in ((w1, w2), (s1, s2)):
        for key in a:
            torch.testing.assert_close(a[key], b[key], atol=1e-5, rtol=1e-4)
saved = [{key: value.clone() for key, value in tensors.items()} for tensors in (w1, s1)]
restore_state(sharding, two, o2, Checkpoint(*saved, {}))
step(one, o1); step(two, o2)
w1, w2 = gather_state(plain, one, o1)[0], gather_state(sharding, two, o2)[0]
if torch.distributed.get_rank() == 0:
    for key in w1:
        torch.testing.assert_close(w1[key], w2[key], atol=1e-5, rtol=1e-4)
print("same", flush=True)
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_accelerate_trains_sharded(tmp_path: Path) -> None:
    """FSDP2 as Accelerate prepares it, on two gloo processes, against one process; then resumed from a checkpoint.

    Accelerate shards over GPUs only: its state is told otherwise, the rest is its own.
    """
    program = tmp_path / "program.py"
    program.write_text(_ACCELERATE)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(cases.__file__).parent)}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", str(program)]
    results = []
    for resume in (False, True):
        arguments = [*command, str(tmp_path / "run"), *(["resume"] if resume else [])]
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("half of it here") == 2
        results.append(load_file(tmp_path / "run" / "final.safetensors"))
        shutil.rmtree(max((tmp_path / "run" / "checkpoints").glob("step-*")))
    recipe, mov = cases.recipe(epochs=1, batch_size=12), cases.tiny_mov(num_temporal_layers=1)
    alone = fit(System(mov, cases.labels()), cases.samples(), recipe, tmp_path, images=cases.IMAGES, device="cpu")
    _assert_close(results[0], alone.weights)
    for name, value in results[0].items():
        assert torch.equal(results[1][name], value), name


@pytest.mark.slow
def test_accelerate_does_not_shard_without_a_word(tmp_path: Path) -> None:
    command = [sys.executable, cases.__file__, str(tmp_path / "run"), "{}"]
    environment = os.environ | {"ACCELERATE_USE_FSDP": "true"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode != 0
    assert "FSDP was asked for" in done.stderr


_ACCELERATE = """
import sys, torch, training_cases as cases
from pathlib import Path
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from safetensors.torch import save_file
from lexivid.models.system import System
from lexivid.training.distributed import make_accelerator
from lexivid.training.loop import fit

recipe, out = cases.recipe(epochs=1, batch_size=12), Path(sys.argv[1])
accelerator = make_accelerator(recipe.training, device="cpu")
AcceleratorState().__dict__["fsdp_plugin"] = FullyShardedDataParallelPlugin(
    fsdp_version=2, reshard_after_forward=True, auto_wrap_policy="transformer_based_wrap",
    transformer_cls_names_to_wrap=["TemporalLayer", "CrossLayer"], state_dict_type="FULL_STATE_DICT",
)
for state in (AcceleratorState, PartialState):
    state._shared_state["distributed_type"] = DistributedType.FSDP
torch.set_num_threads(1)
mov = cases.tiny_mov(num_temporal_layers=1)  # collectives are slow on a busy machine
mov.towers.to(memory_format=torch.channels_last)  # as lite's are
result = fit(
    System(mov, cases.labels()), cases.samples(), recipe, out, images=cases.IMAGES, resume="resume" in sys.argv,
    accelerator=accelerator,
)
here, whole = (sum(f(p) for p in mov.parameters()) for f in (lambda p: p.to_local().numel(), lambda p: p.numel()))
assert abs(here / whole - 0.5) < 0.1, (here, whole)
print("half of it here", flush=True)
if accelerator.is_main_process:
    save_file(result.weights, out / "final.safetensors")
accelerator.wait_for_everyone()
torch.distributed.destroy_process_group()
"""
